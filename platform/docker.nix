# Docker, for the container that Kamal deploys; see config/.
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
      # Docker opens published ports past the firewall. None is needed, and one published by mistake is
      # on loopback only: the first line covers Docker's own network, the second all new networks, such
      # as Kamal's.
      ip = "127.0.0.1";
      default-network-opts.bridge."com.docker.network.bridge.host_binding_ipv4" = "127.0.0.1";
    };

    # Containers keep running while Docker is restarted, as by an upgrade of the host. In return Docker
    # does not stop them at a shutdown: systemd does, at the very end, with SIGTERM and 90 s. By then
    # nginx has stopped, so no request is in flight, and acknowledged uploads have been synced.
    liveRestore = true;
  };

  # Removes unused images older than two weeks. NixOS's own autoPrune runs `docker system prune`, which
  # would remove Kamal's network if the service is down at the time. The service's images are left to
  # Kamal, which keeps the last few at each deploy.
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
