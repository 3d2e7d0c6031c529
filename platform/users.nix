# Who is on the host: the service, by its number, and those who deploy.
{ config, host, ... }:

let
  inherit (config.services.cache-actors-nginx) storageGid storageGroup;
in
{
  # Users are those of this file: no passwords, nothing that has been changed by hand.
  users.mutableUsers = false;

  # The container runs as this number (platform/Dockerfile). The name makes `ls` readable, and keeps
  # the number from anybody else. Its group is in nginx.nix, as nginx joins it.
  users.users.cache-actors = {
    uid = storageGid;
    group = storageGroup;
    isSystemUser = true;
    description = "Cache Actors, in its container";
  };

  # Kamal's user. Who may use Docker is as good as root, so sudo gives nothing more away; there is no
  # password to ask for.
  users.users.deploy = {
    isNormalUser = true;
    extraGroups = [
      "docker"
      "wheel"
    ];
    openssh.authorizedKeys.keys = host.deployKeys;
  };
  security.sudo.wheelNeedsPassword = false;
  # nixos-rebuild --target-host copies what it has built, which nobody has signed.
  nix.settings.trusted-users = [ "@wheel" ];

  assertions = [
    {
      assertion = host.deployKeys != [ ];
      message = "platform/hosts.nix: ${host.name} has no deployKeys, so nobody could log in";
    }
  ];
}
