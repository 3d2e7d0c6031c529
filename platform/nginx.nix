# nginx in front of the cache, as a NixOS module.
#
#   imports = [ ./platform/nginx.nix ];
#   services.cache-actors-nginx = {
#     enable = true;
#     hostName = "cache.example.com";
#     acmeEmail = "operations@example.com";
#     storage = "/cas";
#   };
#
# nginx/*.conf, the same files that the tests run, answer requests. This module sets up the host: TLS,
# folders, users, limits, logs.
{ config, lib, ... }:

let
  cfg = config.services.cache-actors-nginx;
  decisions = "/run/nginx-decisions";
  misses = "/run/nginx-misses";
  shared = "/run/cache-actors";

  # What nginx remembers as being neither on the disk nor in the bucket.
  missesPath = ''
    proxy_cache_path ${misses} levels=1:2 keys_zone=cache_misses:8m
                     max_size=64m min_free=1m inactive=1m use_temp_path=off;
  '';

  # Each worker has up to 17,000 open files (open_file_cache in server.conf), and two sockets for each of
  # its 8,192 connections.
  openFiles = 131072;

  # NixOS's default addresses, with a backlog for the burst at a build's start: nginx's default is 511.
  listenOn = port: ssl: addr: {
    inherit addr port ssl;
    extraParameters = [ "backlog=4096" ];
  };
  addresses = [
    "0.0.0.0"
    "[::]"
  ];

  # The first nginx that passes the trailers of gRPC on; with an older one, gRPC is left out.
  hasGrpc = builtins.compareVersions config.services.nginx.package.version "1.27.2" >= 0;
in
{
  options.services.cache-actors-nginx = {
    enable = lib.mkEnableOption "nginx in front of the Cache Actors service";

    hostName = lib.mkOption {
      type = lib.types.str;
      description = "The host name that clients use: the service's PUBLIC_HOST.";
    };

    acmeEmail = lib.mkOption {
      type = lib.types.str;
      description = "Whom Let's Encrypt tells when a certificate is about to run out.";
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

    pathPrefix = lib.mkOption {
      type = lib.types.str;
      default = "";
      example = "/cache";
      description = "What clients' paths begin with, beside the usual ones: the service's PATH_PREFIX.";
    };

    maxUploadBytes = lib.mkOption {
      type = lib.types.ints.positive;
      default = 26214400;
      description = "The largest upload: the service's MAX_UPLOAD_BYTES.";
    };

    bucket = lib.mkOption {
      type = lib.types.bool;
      default = false;
      description = "Whether the service has a bucket (S3_BUCKET), and is asked for what is missing.";
    };

    metricsPort = lib.mkOption {
      type = lib.types.nullOr lib.types.port;
      default = 9464;
      description = "The port on 127.0.0.1 at which Prometheus gets the service's metrics; null for none.";
    };
  };

  config = lib.mkIf cfg.enable {
    users.groups.${cfg.storageGroup}.gid = cfg.storageGid;
    users.users.${config.services.nginx.user}.extraGroups = [ cfg.storageGroup ];

    # nginx reads stored files through their group, and the service owns and writes them. The setgid bit
    # passes the group on to new folders.
    # The keys of cached decisions contain tokens: they are on tmpfs (/run), and for nginx only.
    systemd.tmpfiles.rules = [
      "d ${cfg.storage} 2750 ${toString cfg.storageGid} ${cfg.storageGroup} -"
      "d ${decisions} 0700 ${config.services.nginx.user} ${config.services.nginx.group} -"
      "d ${misses} 0700 ${config.services.nginx.user} ${config.services.nginx.group} -"
      # Each instance of the service binds a socket here and moves current.sock to it. nginx, through the
      # group, connects to it, and writes the log that the service counts and empties.
      "d ${shared} 2770 ${toString cfg.storageGid} ${cfg.storageGroup} -"
      "f ${shared}/answers.log 0660 ${toString cfg.storageGid} ${cfg.storageGroup} -"
    ];

    systemd.services.nginx = {
      serviceConfig.LimitNOFILE = openFiles;
      # NixOS makes all else read-only for nginx. nginx only reads stored files, but a read-only mount
      # would not update their access times.
      serviceConfig.ReadWritePaths = [
        decisions
        misses
        cfg.storage
        shared
      ];
      # Without the disk nginx would answer every request with a miss.
      unitConfig.RequiresMountsFor = [ cfg.storage ];
    };

    # Certificates come from Let's Encrypt, which validates over port 80. NixOS renews them when they are
    # due, checked daily, and then reloads nginx.
    security.acme = {
      acceptTerms = true;
      defaults.email = cfg.acmeEmail;
    };

    # The log has a line per request; half a year of it, NixOS's default, would fill the disk. logrotate
    # runs every hour.
    services.logrotate.settings.nginx = {
      frequency = "daily";
      rotate = 14;
      maxsize = "500M";
    };

    services.nginx = {
      enable = true;
      # NixOS would refuse to build with any finding of gixy's, and each version has more: any `if`, limits
      # that are set elsewhere. tests/nginx/test_config.py has the findings and why they stay; nginx
      # itself tests the configuration before each start and reload.
      validateConfigFile = false;
      # A new configuration causes a reload, as a restart would cut connections. The option also puts the
      # configuration at /etc/nginx/nginx.conf, for `cache-actors check`.
      enableReload = true;
      recommendedTlsSettings = true;
      eventsConfig = "worker_connections 8192;";
      # No pcre_jit: NixOS allows nginx no memory that is writable and executable, and PCRE2's allocator
      # for that case is not safe in a process that forks (nixpkgs, pull request 384302).
      appendConfig = ''
        worker_processes auto;
        worker_rlimit_nofile ${toString openFiles};
      '';

      commonHttpConfig = ''
        proxy_cache_path ${decisions} levels=1:2 keys_zone=cache_decisions:4m
                         max_size=128m min_free=1m inactive=10m use_temp_path=off;
        ${if cfg.bucket then missesPath else ""}

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
        access_log ${shared}/answers.log cache_answers buffer=64k flush=1s;
        ssl_conf_command Options KTLS;
        http2_max_concurrent_streams 512;
      '';

      # Only the port is an option, since metrics are not for other hosts.
      appendHttpConfig = lib.mkIf (cfg.metricsPort != null) ''
        upstream cache_metrics {
            server ${cfg.upstream};
        }

        server {
            listen 127.0.0.1:${toString cfg.metricsPort};

            ${builtins.readFile ./nginx/metrics.conf}
        }
      '';

      virtualHosts.${cfg.hostName} = {
        forceSSL = true;
        enableACME = true;
        http2 = true;
        listen = map (listenOn 80 false) addresses ++ map (listenOn 443 true) addresses;
        extraConfig = ''
          client_max_body_size ${toString cfg.maxUploadBytes};
          ${if cfg.pathPrefix == "" then "" else ''rewrite "(?s)^${cfg.pathPrefix}(/.*)\z" $1;''}

          ${builtins.readFile ./nginx/server.conf}
          ${if cfg.bucket then builtins.readFile ./nginx/bucket.conf else ""}

          ${if hasGrpc then builtins.readFile ./nginx/grpc.conf else ""}
        '';
      };
    };

    networking.firewall.allowedTCPPorts = [
      80
      443
    ];
  };
}
