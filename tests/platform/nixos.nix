# The options of NixOS that platform/ sets, with the types that they have in nixpkgs. One that is not
# here counts as one that does not exist: look it up in nixpkgs before adding it.
{ lib, ... }:

let
  inherit (lib) mkOption types;
  inherit (types)
    anything
    attrsOf
    bool
    enum
    int
    lines
    listOf
    nullOr
    path
    port
    str
    submodule
    ;

  # Sets that NixOS takes as they come, and hands to a program.
  scalars = attrsOf anything;

  option = type: default: mkOption { inherit type default; };
  required = type: mkOption { inherit type; };
  off = option bool false;
  on = option bool true;
  strings = option (listOf str) [ ];
in
{
  options = {
    # nixos/modules/misc/assertions.nix, misc/nixpkgs.nix, misc/version.nix
    assertions = option (listOf (submodule {
      assertion = required bool;
      message = required str;
    })) [ ];
    nixpkgs.hostPlatform = required str;
    system.stateVersion = required str;

    # config/locale.nix, tasks/filesystems.nix, tasks/network-interfaces.nix
    time.timeZone = option (nullOr str) null;
    fileSystems = option (attrsOf (submodule {
      device = required str;
      fsType = required str;
      options = option (listOf str) [ "defaults" ];
    })) { };
    networking.hostName = required str;

    # system/boot/kernel.nix, system/boot/loader/, config/sysctl.nix
    boot.kernelModules = strings;
    boot.initrd.availableKernelModules = strings;
    boot.loader.systemd-boot.enable = off;
    boot.loader.systemd-boot.configurationLimit = option (nullOr int) null;
    boot.loader.efi.canTouchEfiVariables = off;
    boot.kernel.sysctl = option scalars { };

    # system/boot/systemd.nix, system/boot/systemd/tmpfiles.nix, system/boot/systemd/journald.nix
    systemd.services = option (attrsOf (submodule {
      description = option (nullOr str) null;
      after = strings;
      requires = strings;
      startAt = strings;
      serviceConfig = option scalars { };
      unitConfig = option scalars { };
    })) { };
    systemd.tmpfiles.rules = strings;
    services.journald.extraConfig = option lines "";

    # config/users-groups.nix, security/sudo.nix
    users.mutableUsers = on;
    users.groups = option (attrsOf (submodule {
      gid = option (nullOr int) null;
    })) { };
    users.users = option (attrsOf (submodule {
      uid = option (nullOr int) null;
      group = option str "";
      extraGroups = strings;
      isSystemUser = off;
      isNormalUser = off;
      description = option str "";
      openssh.authorizedKeys.keys = strings;
    })) { };
    security.sudo.wheelNeedsPassword = on;

    # services/networking/firewall.nix, services/networking/ssh/sshd.nix
    networking.firewall.enable = on;
    networking.firewall.allowedTCPPorts = option (listOf port) [ ];
    networking.firewall.allowedUDPPorts = option (listOf port) [ ];
    networking.firewall.logRefusedConnections = on;
    services.openssh.enable = off;
    services.openssh.openFirewall = on;
    services.openssh.settings = option scalars { };

    # config/nix.nix, services/misc/nix-gc.nix, services/misc/fstrim.nix
    nix.settings = option scalars { };
    nix.gc.automatic = off;
    nix.gc.dates = option str "03:15";
    nix.gc.options = option str "";
    services.fstrim.enable = off;

    # virtualisation/docker.nix
    virtualisation.docker.enable = off;
    virtualisation.docker.liveRestore = on;
    virtualisation.docker.logDriver = option (enum [
      "none"
      "json-file"
      "syslog"
      "journald"
      "gelf"
      "fluentd"
      "awslogs"
      "splunk"
      "etwlogs"
      "gcplogs"
      "local"
    ]) "journald";
    virtualisation.docker.daemon.settings = option scalars { };
    virtualisation.docker.package = option path "/nix/store/docker";

    # security/acme, services/logging/logrotate.nix
    security.acme.acceptTerms = off;
    security.acme.defaults.email = option (nullOr str) null;
    services.logrotate.settings = option (attrsOf scalars) { };

    # services/web-servers/nginx/default.nix, vhost-options.nix
    services.nginx.enable = off;
    services.nginx.package = option scalars { version = "1.30.0"; };
    services.nginx.user = option str "nginx";
    services.nginx.group = option str "nginx";
    services.nginx.enableReload = off;
    services.nginx.validateConfigFile = on;
    services.nginx.recommendedTlsSettings = off;
    services.nginx.eventsConfig = option lines "";
    services.nginx.appendConfig = option lines "";
    services.nginx.commonHttpConfig = option lines "";
    services.nginx.appendHttpConfig = option lines "";
    services.nginx.virtualHosts = option (attrsOf (submodule {
      forceSSL = off;
      enableACME = off;
      acmeRoot = option (nullOr path) "/var/lib/acme/acme-challenge";
      http2 = on;
      listen = option (listOf (submodule {
        addr = required str;
        port = option (nullOr port) null;
        ssl = off;
        extraParameters = strings;
      })) [ ];
      extraConfig = option lines "";
    })) { };
  };
}
