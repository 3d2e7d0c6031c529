# Docker, for the container that Kamal brings: see config/.
{ ... }:

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
      # by mistake is then on loopback only.
      ip = "127.0.0.1";
    };

    # Containers go on while Docker itself is restarted, as by an upgrade of the host.
    liveRestore = true;

    # Images and containers of more than two weeks that nobody uses. The service's own are left to
    # Kamal, which keeps the last few at each deploy: a roll-back needs the container that has just been
    # stopped, however old it is.
    autoPrune = {
      enable = true;
      dates = "weekly";
      flags = [
        "--all"
        "--filter=until=336h"
        "--filter=label!=service=cache-actors"
      ];
    };
  };
}
