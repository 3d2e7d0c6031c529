# Docker, for the container that Kamal brings: see config/.
{ config, ... }:

{
  virtualisation.docker = {
    enable = true;

    # A file for each container, rotated and compressed by Docker. NixOS's default, journald, would
    # share one bound with all the host's logs: the service writes a line for each request.
    logDriver = "local";

    daemon.settings = {
      log-opts = {
        max-size = "50m";
        max-file = "5";
      };
      # Docker opens published ports behind the firewall's back. None is needed; one that is published
      # by mistake is then on loopback only: by the first line on Docker's own network, by the second on
      # each that is made from then on, such as Kamal's.
      ip = "127.0.0.1";
      default-network-opts.bridge."com.docker.network.bridge.host_binding_ipv4" = "127.0.0.1";
    };

    # Containers go on while Docker itself is restarted, as by an upgrade of the host. The price is that
    # Docker does not stop them when the host goes down: systemd does, at the very end, with SIGTERM and
    # 90 s. By then nginx is gone, so that nothing is in flight; what is acknowledged has been synced.
    liveRestore = true;
  };

  # Images of more than two weeks that nobody uses. Not `docker system prune`, which is what NixOS's own
  # autoPrune runs: it would take Kamal's network away if the service is down at the time. The service's
  # images are left to Kamal, which keeps the last few at each deploy.
  systemd.services.docker-image-prune = {
    description = "Remove images that no container uses";
    after = [ "docker.service" ];
    requires = [ "docker.service" ];
    startAt = [ "weekly" ];
    serviceConfig = {
      Type = "oneshot";
      ExecStart = builtins.concatStringsSep " " [
        "${config.virtualisation.docker.package}/bin/docker image prune --force --all"
        "--filter=until=336h"
        "--filter=label!=service=cache-actors"
      ];
    };
  };
}
