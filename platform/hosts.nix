# What differs between the hosts; everything else is the same for both. Nothing secret: secrets come
# with Kamal, and stay in the deploying user's home.
#
#   hostName      what clients use: PUBLIC_HOST in config/, and the name on the certificate
#   acmeEmail     whom Let's Encrypt tells when a certificate is about to run out
#   system        the processor
#   deployKeys    public SSH keys of those who may deploy, one a string; without any, a build is refused
#   stateVersion  the NixOS release that the host was installed with; stays as it is on upgrades
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
