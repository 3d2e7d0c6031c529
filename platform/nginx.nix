# nginx in front of the cache, as a NixOS module.
#
#   imports = [ ./platform/nginx.nix ];
#   services.cache-actors-nginx = {
#     enable = true;
#     hostName = "cache.example.com";
#     storage = "/cas";
#   };
#
# How requests are answered is in nginx/http.conf and nginx/server.conf, unchanged from what the tests
# run. Here is what belongs to the host: TLS, folders, users, limits.
{ config, lib, ... }:

let
  cfg = config.services.cache-actors-nginx;
in
{
  options.services.cache-actors-nginx = {
    enable = lib.mkEnableOption "nginx in front of the Cache Actors service";

    hostName = lib.mkOption {
      type = lib.types.str;
      description = "The host name that clients use: the service's PUBLIC_HOST.";
    };

    upstream = lib.mkOption {
      type = lib.types.str;
      default = "unix:/run/cache-actors/current.sock";
      description = "Where the service listens: unix:/path, or address:port.";
    };

    storage = lib.mkOption {
      type = lib.types.path;
      default = "/cas";
      description = "The storage folder: the service's CAS_STORAGE_DIR.";
    };

    storageGroup = lib.mkOption {
      type = lib.types.str;
      default = "cache-actors";
      description = "The group of the stored files and of the socket; nginx joins it, to read.";
    };

    storageGid = lib.mkOption {
      type = lib.types.int;
      default = 10001;
      description = "The group's number, which is the one that the service has in its container.";
    };

    maxUploadBytes = lib.mkOption {
      type = lib.types.ints.positive;
      default = 26214400;
      description = "The largest upload: the service's MAX_UPLOAD_BYTES.";
    };
  };

  config = lib.mkIf cfg.enable {
    users.groups.${cfg.storageGroup}.gid = cfg.storageGid;
    users.users.${config.services.nginx.user}.extraGroups = [ cfg.storageGroup ];

    # nginx may read what is stored, as one of the group, but not write: the service owns it. The
    # set-group-id bit hands the group down. No read-only mount: access times have to move.
    # Decisions hold tokens in their keys: /run is tmpfs, and nobody else may look.
    systemd.tmpfiles.rules = [
      "d ${cfg.storage} 2750 ${toString cfg.storageGid} ${cfg.storageGroup} -"
      "d /run/nginx-decisions 0700 ${config.services.nginx.user} ${config.services.nginx.group} -"
    ];

    systemd.services.nginx.serviceConfig = {
      LimitNOFILE = 65536;
      ReadWritePaths = [ "/run/nginx-decisions" ];
    };

    services.nginx = {
      enable = true;
      recommendedTlsSettings = true;
      eventsConfig = "worker_connections 8192;";
      appendConfig = ''
        worker_processes auto;
        pcre_jit on;
      '';

      commonHttpConfig = ''
        proxy_cache_path /run/nginx-decisions levels=1:2 keys_zone=cache_decisions:16m
                         max_size=128m inactive=30m use_temp_path=off;

        upstream cache_actors {
            server ${cfg.upstream} max_fails=0;
            keepalive 64;
            keepalive_timeout 15s;
        }

        map "" $cache_storage {
            default "${cfg.storage}";
        }

        ${builtins.readFile ./nginx/http.conf}

        access_log /var/log/nginx/cache.log cache_actors buffer=64k flush=1s;
        ssl_conf_command Options KTLS;
        http2_max_concurrent_streams 512;
      '';

      virtualHosts.${cfg.hostName} = {
        forceSSL = true;
        enableACME = true;
        http2 = true;
        extraConfig = ''
          client_max_body_size ${toString cfg.maxUploadBytes};

          ${builtins.readFile ./nginx/server.conf}
        '';
      };
    };

    networking.firewall.allowedTCPPorts = [ 80 443 ];
  };
}
