"""What is asked for, and who is asked, as it is called in results."""

READ, DUPLICATE, NEW = "artifact read", "upload that exists", "new upload"
HIT, MISS, PUT = "entry read", "entry that is not there", "entry stored"
GRADLE_READ, GRADLE_NEW = "Gradle output read", "new Gradle output"
MODULE_READ = "module read"
LARGE_NEW = "upload of 25 MiB, one at a time"
DECISION = "decision for nginx"

NGINX = "nginx alone"
NGINX_SYNCED = f"{NGINX}, then synced"
OTHER = "turborepo-remote-cache"
OTHER_BEHIND_NGINX = f"{OTHER} behind nginx"


def way_of(workers: int, durability: str) -> str:
    """A way in which the service runs, in words."""
    return f"{workers} worker{'s' if workers > 1 else ''}, {durability}"


def ours(workers: int, durability: str) -> str:
    """The service, run in that way, behind nginx."""
    return f"cache-actors, {way_of(workers, durability)}"
