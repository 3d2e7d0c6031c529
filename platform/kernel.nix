# Kernel settings that differ from the defaults, with reasons. A cache gets thousands of small requests
# at once, from distant clients, and answers from small files.
{ ... }:

{
  boot.kernelModules = [
    # TLS in the kernel, so that sendfile works with TLS too. nginx may not load modules itself.
    "tls"
    # The congestion control below.
    "tcp_bbr"
  ];

  boot.kernel.sysctl = {
    # --- Network ---

    # Packet loss on the way to an office or a hosted Mac is no sign of congestion, which BBR measures
    # instead. BBR needs packets to be paced, which fq does.
    "net.core.default_qdisc" = "fq";
    "net.ipv4.tcp_congestion_control" = "bbr";

    # Builds pause and go on over the same connection, which then keeps its congestion window.
    "net.ipv4.tcp_slow_start_after_idle" = 0;

    # Up to 16 MiB in flight to a client, for 1 Gbit/s at 130 ms; the default of 4 MiB allows 250 Mbit/s.
    # The first two numbers are the kernel's defaults.
    "net.ipv4.tcp_wmem" = "4096 16384 16777216";

    # At most 128 KiB of that unsent: with HTTP/2, small responses would queue behind a large artifact on
    # the same connection.
    "net.ipv4.tcp_notsent_lowat" = 131072;

    # Company VPNs drop large packets without an ICMP error: probe for the size that gets through.
    "net.ipv4.tcp_mtu_probing" = 1;

    # --- Files ---

    # Each upload is synced before it is acknowledged, and a sync waits for other writeback. So start
    # writeback early, and never let gigabytes pile up (by default 10 and 20 % of memory).
    "vm.dirty_background_bytes" = 67108864;
    "vm.dirty_bytes" = 536870912;

    # With lazytime, access times reach the disk after this many seconds at the latest (by default 12
    # hours); eviction loses at most that much of them in a power cut.
    "vm.dirtytime_expire_seconds" = 3600;

    # Each read opens a file by its path. For a million files, cached names and inodes are worth more than
    # cached bytes, which take a single read.
    "vm.vfs_cache_pressure" = 50;

    # The page cache should not displace processes.
    "vm.swappiness" = 10;
  };
}
