# The disks, by label, and the folders that the container and nginx share.
#
#   mkfs.vfat -n boot ...    mkfs.ext4 -L nixos ...    mkfs.ext4 -L cas ...
#
# What is stored has a disk of its own: when it is full, uploads are 507 and the host goes on.
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
      # It holds the random seed of the next boot.
      options = [ "umask=0077" ];
    };

    # What the service and nginx share while they run. It has a size of its own, as nginx's log there
    # grows when nobody counts and empties it: when it is full nginx drops lines, and nothing else.
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
        # Eviction lives by access times: each read counts, where relatime moves them once a day.
        "strictatime"
        # They are kept in memory and written now and then (kernel.nix), so that reads do not write.
        "lazytime"
        # It holds what clients send: never devices, programs or privileges.
        "nodev"
        "nosuid"
        "noexec"
        # Without this disk one can still log in; nginx and Docker do not start, see below.
        "nofail"
        "x-systemd.device-timeout=30s"
        # nofail takes the mount out of the boot's order: the folder's owner and mode belong on the
        # disk, not on the mount point below it.
        "x-systemd.before=systemd-tmpfiles-setup.service"
      ];
    };
  };

  # ext4 on an SSD: tell it once a week what is free.
  services.fstrim.enable = true;

  # Nothing is to be stored on the root disk because /cas is missing. nginx.nix says the same of nginx.
  systemd.services.docker.unitConfig.RequiresMountsFor = [ storage ];
}
