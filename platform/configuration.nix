# A host of the cache: nginx in front, Docker for the container that Kamal deploys, /cas for stored
# files. `host` is one of hosts.nix.
{ host, ... }:

{
  imports = [
    ./docker.nix
    ./kernel.nix
    ./nginx.nix
    ./storage.nix
    ./users.nix
  ];

  services.cache-actors-nginx = {
    enable = true;
    hostName = host.hostName;
    acmeEmail = host.acmeEmail;
  };

  nixpkgs.hostPlatform = host.system;
  system.stateVersion = host.stateVersion;
  networking.hostName = "cache-${host.name}";
  time.timeZone = "UTC";

  boot.loader = {
    systemd-boot.enable = true;
    # Each generation keeps a kernel in /boot, which is small.
    systemd-boot.configurationLimit = 10;
    efi.canTouchEfiVariables = true;
  };

  # Disk drivers of common servers and virtual machines.
  boot.initrd.availableKernelModules = [
    "ahci"
    "nvme"
    "sd_mod"
    "virtio_blk"
    "virtio_pci"
    "virtio_scsi"
    "xhci_pci"
  ];

  # nginx.nix opens ports 80 and 443. The service itself has no port, only a Unix socket.
  networking.firewall = {
    enable = true;
    allowedTCPPorts = [ 22 ];
    # A line for each port scan from the internet would crowd out the journal.
    logRefusedConnections = false;
  };

  services.openssh = {
    enable = true;
    # The firewall above is the one place that opens ports.
    openFirewall = false;
    settings = {
      PasswordAuthentication = false;
      KbdInteractiveAuthentication = false;
      PermitRootLogin = "no";
    };
  };

  # The journal (sshd, nginx's errors, the kernel) is bounded here, nginx's access log in nginx.nix, and
  # the container's log in docker.nix.
  services.journald.extraConfig = "SystemMaxUse=1G";

  # Leftovers of upgrades. Generations of the last month stay, for rollbacks.
  nix.gc = {
    automatic = true;
    dates = "weekly";
    options = "--delete-older-than 30d";
  };
  nix.settings.experimental-features = [
    "nix-command"
    "flakes"
  ];
}
