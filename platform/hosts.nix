# Differences between the hosts. There are no secrets here: Kamal brings them, and keeps them in the
# deploying user's home.
#
#   hostName      host name for clients: PUBLIC_HOST in config/, and the name on the certificate
#   acmeEmail     contact address for Let's Encrypt
#   system        processor architecture
#   deployKeys    public SSH keys of people who may deploy, one per string; a build needs at least one
#   stateVersion  NixOS release that the host was installed with; upgrades do not change it
{
  production = {
    hostName = "cache.example.com";
    acmeEmail = "operations@example.com";
    system = "x86_64-linux";
    deployKeys = [ ];
    stateVersion = "26.05";
  };

  staging = {
    hostName = "cache-staging.example.com";
    acmeEmail = "operations@example.com";
    system = "x86_64-linux";
    deployKeys = [ ];
    stateVersion = "26.05";
  };
}
