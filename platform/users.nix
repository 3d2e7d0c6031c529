# Users of the host: the service, by its number, and the user for deploys.
{ config, host, ... }:

let
  inherit (config.services.cache-actors-nginx) storageGid storageGroup;
in
{
  # Only this file defines users: there are no passwords, and no changes by hand.
  users.mutableUsers = false;

  # The container runs with this number (platform/Dockerfile). The name makes `ls` readable, and reserves
  # the number. The group is in nginx.nix, since nginx joins it.
  users.users.cache-actors = {
    uid = storageGid;
    group = storageGroup;
    isSystemUser = true;
    description = "Cache Actors, in its container";
  };

  # Kamal's user. Access to Docker amounts to root, so sudo grants nothing more, and there is no password
  # to ask for.
  users.users.deploy = {
    isNormalUser = true;
    extraGroups = [
      "docker"
      "wheel"
    ];
    openssh.authorizedKeys.keys = host.deployKeys;
  };
  security.sudo.wheelNeedsPassword = false;
  # nixos-rebuild --target-host copies builds without a signature.
  nix.settings.trusted-users = [ "@wheel" ];

  assertions = [
    {
      assertion = host.deployKeys != [ ];
      message = "platform/hosts.nix: ${host.name} has no deployKeys, so nobody could log in";
    }
  ];
}
