# The disks, by label, and the folders that the container and nginx share.
#
#   mkfs.vfat -n boot ...    mkfs.ext4 -L nixos ...    mkfs.ext4 -L cas ...
#
# Stored files have a disk of their own: when it is full, uploads are answered 507 and the host goes on.
{ config, ... }:

let
  inherit (config.services.cache-actors-nginx) storage storageGid;
  shared = "/run/cache-actors";
in
{
  fileSystems = {
    "/" = {
      device = "/dev/disk/by-label/nixos";
      fsType = "ext4";
    };

    "/boot" = {
      device = "/dev/disk/by-label/boot";
      fsType = "vfat";
      # The random seed of the next boot is here.
      options = [ "umask=0077" ];
    };

    # Sockets and a log that the service and nginx share. The size is limited, since nginx's log grows
    # while no service empties it: when this is full, nginx drops lines of the log and nothing else.
    ${shared} = {
      device = "tmpfs";
      fsType = "tmpfs";
      options = [
        "size=64m"
        "mode=2770"
        "uid=${toString storageGid}"
        "gid=${toString storageGid}"
        "nodev"
        "nosuid"
        "noexec"
      ];
    };

    ${storage} = {
      device = "/dev/disk/by-label/cas";
      fsType = "ext4";
      options = [
        # Eviction needs the access time of each read; relatime would update it once a day.
        "strictatime"
        # Access times are kept in memory and written later (kernel.nix), so that reads do not write.
        "lazytime"
        # Files from clients are never devices, programs or setuid.
        "nodev"
        "nosuid"
        "noexec"
        # The host boots without this disk, but does not start nginx and Docker (see below).
        "nofail"
        "x-systemd.device-timeout=30s"
        # nofail removes the mount from the boot's order, but tmpfiles has to set the owner and mode of the
        # folder on the disk, not of the mount point below it.
        "x-systemd.before=systemd-tmpfiles-setup.service"
      ];
    };
  };

  # Reports free blocks of ext4 to the SSD once a week.
  services.fstrim.enable = true;

  # Without /cas, files would be stored on the root disk. nginx.nix does the same for nginx.
  systemd.services.docker.unitConfig.RequiresMountsFor = [ storage ];
}
