# What the kernel does otherwise than by default, and why. A cache is asked thousands of small questions
# at once, by clients that are far away, and answers from small files.
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

    # Loss on the way to an office or a hosted Mac does not mean that the way is full: BBR measures
    # instead. It wants packets to be paced, which fq does.
    "net.core.default_qdisc" = "fq";
    "net.ipv4.tcp_congestion_control" = "bbr";

    # Builds pause and come back on the same connection. Its window is not to start anew each time.
    "net.ipv4.tcp_slow_start_after_idle" = 0;

    # 16 MiB on their way to a client at most: 1 Gbit/s at 130 ms; the default of 4 MiB makes that
    # 250 Mbit/s. The first two numbers, which all connections start with, are the kernel's own.
    "net.ipv4.tcp_wmem" = "4096 16384 16777216";

    # But no more than 128 KiB of it waiting to be sent: with HTTP/2, small answers would stand in line
    # behind a large artifact on the same connection.
    "net.ipv4.tcp_notsent_lowat" = 131072;

    # Tunnels of companies swallow large packets without a word: find out what gets through.
    "net.ipv4.tcp_mtu_probing" = 1;

    # --- Files ---

    # Each upload is synced before it is acknowledged, and syncing waits for what is being written. So
    # write early, and never have gigabytes waiting (by default 10 and 20 % of memory).
    "vm.dirty_background_bytes" = 67108864;
    "vm.dirty_bytes" = 536870912;

    # With lazytime, access times are written when this old at the latest (in seconds; by default 12
    # hours). That is what eviction forgets of them in a power cut.
    "vm.dirtytime_expire_seconds" = 3600;

    # A read opens a file by its path. Where a million files lie is worth more than their bytes, which
    # are one read away when the path is known.
    "vm.vfs_cache_pressure" = 50;

    # Files pass through memory all day: that is no reason to swap processes out.
    "vm.swappiness" = 10;
  };
}
