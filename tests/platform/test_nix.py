"""The hosts in platform/: that they evaluate, and that they are what they are said to be."""

import re
from pathlib import Path
from typing import Any

import pytest

from .conftest import HOSTS
from .nix import NixError, evaluate, evaluate_hosts, parse

PROJECT = Path(__file__).parents[2]
PLATFORM = PROJECT / "platform"
MODULES = sorted(PLATFORM.rglob("*.nix"))
STAND_INS = sorted(Path(__file__).parent.glob("*.nix"))
NO_MODULES = {"flake.nix", "hosts.nix", "configuration.nix"}

SECRET = re.compile(
    r"""PRIVATE\ KEY
        | \b\w*(?:password|passwd|secret|token)\w*"?\s*=\s*"[^"]
        | \b(?:github_pat|gh[pousr]|glpat|dckr_pat|xox[bp])[-_]\w{10}
        | \bAKIA[0-9A-Z]{16}
        | \$[56y]\$[^\s"]{8}""",
    re.IGNORECASE | re.VERBOSE,
)


# --- The files ------------------------------------------------------------------------------------


def test_all_files_are_nix_and_one_that_is_not_is_found(tmp_path: Path) -> None:
    files = MODULES + STAND_INS
    parse(*files)
    broken = tmp_path / "broken.nix"
    broken.write_text("{ a = ; }")
    with pytest.raises(NixError, match="syntax error"):
        parse(*files, broken)


def test_every_module_is_part_of_a_host() -> None:
    configuration = "import ../../platform/configuration.nix { host = { }; }"
    imports = evaluate(f"map toString ({configuration}).imports")
    assert {Path(path).name for path in imports} == {m.name for m in MODULES} - NO_MODULES


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ("{ services.nginx.virtualhosts = { }; }", "nginx.virtualhosts' does not exist"),
        ('{ fileSystems."/cas".option = [ ]; }', "/cas.option' does not exist"),
        ('{ networking.firewall.allowedTCPPorts = [ "22" ]; }', "not of the type port"),
        ("{ services.openssh.enable = 1; }", "not of the type bool"),
        ('{ networking.hostName = "other"; }', "hostName' has conflicting values"),
        ("{ options = { }; services = { }; }", "`services' beside its config or options"),
    ],
    ids=lambda text: text[:40],
)
def test_stand_in_refuses_what_nixos_refuses(change: str, complaint: str) -> None:
    with pytest.raises(NixError, match=re.escape(complaint)):
        evaluate_hosts(change=change)


def test_stand_in_knows_conditions_and_priorities() -> None:
    change = """{ config, lib, ... }: {
      networking.hostName = lib.mkForce "forced";
      time.timeZone = lib.mkDefault "Europe/Berlin";
      users.groups = lib.mkMerge [
        (lib.mkIf config.services.nginx.enable { yes = { }; })
        (lib.mkIf (!config.services.nginx.enable) { no = { }; })
      ];
    }"""
    config = evaluate_hosts(change=change)["staging"]["config"]
    assert config["networking"]["hostName"] == "forced"
    assert config["time"]["timeZone"] == "UTC"
    assert config["users"]["groups"].keys() == {"yes", "cache-actors"}


def test_no_secret_is_in_the_tree() -> None:
    files = [*MODULES, *PLATFORM.glob("nginx/*.conf")]
    assert not [path.name for path in files if SECRET.search(path.read_text())]


@pytest.mark.parametrize(
    "text",
    [
        "-----BEGIN OPENSSH PRIVATE KEY-----",
        'hashedPassword = "x";',
        'SECRET_KEY_BASE = "x";',
        'authToken="x"',
        "ghp_0123456789abcdef",
        'hash = "$6$rounds=5000$abc";',
    ],
)
def test_secret_would_be_found(text: str) -> None:
    assert SECRET.search(text)


# --- The hosts ------------------------------------------------------------------------------------


def test_hosts_differ_in_their_parameters_only(hosts: Any) -> None:
    same = '{ name = "same"; hostName = "same.example.com"; acmeEmail = "same@example.com"; '
    same += 'system = "x86_64-linux"; deployKeys = [ ]; stateVersion = "26.05"; }'
    parameters = evaluate("import ../../platform/hosts.nix")
    made_same = evaluate_hosts(parameters=same)
    assert tuple(hosts) == tuple(parameters) == HOSTS
    assert parameters["production"].keys() == parameters["staging"].keys()
    for name in HOSTS:
        config = hosts[name]["config"]
        assert config["networking"]["hostName"] == f"cache-{name}"
        assert [*config["services"]["nginx"]["virtualHosts"]] == [parameters[name]["hostName"]]
    assert made_same["production"] == made_same["staging"]


@pytest.mark.parametrize(
    ("name", "file"), [("production", "deploy.yml"), ("staging", "deploy.staging.yml")]
)
def test_kamal_and_hosts_agree(hosts: Any, name: str, file: str) -> None:
    deploy = (PROJECT / "config" / file).read_text()
    config = hosts[name]["config"]
    nginx = config["services"]["cache-actors-nginx"]
    assert re.findall(r"PUBLIC_HOST: (\S+)", deploy) == [nginx["hostName"]]
    assert re.findall(r"CAS_STORAGE_DIR: (\S+)", deploy) == [nginx["storage"]]
    [sockets] = re.findall(r"SOCKET_DIR: (\S+)", deploy)
    assert nginx["upstream"] == f"unix:{sockets}/current.sock"
    assert re.findall(r"- (/\S+):\1$", deploy, re.MULTILINE) == [nginx["storage"], sockets]
    [service] = re.findall(r"^service: (\S+)", deploy, re.MULTILINE)
    assert f"--filter=label!=service={service}" in image_prune(config)


def test_user_of_the_image_is_the_user_of_the_host(host: Any) -> None:
    dockerfile = (PLATFORM / "Dockerfile").read_text()
    [(uid, gid)] = re.findall(r"useradd --uid (\d+) --gid (\d+) ", dockerfile)
    user = host["users"]["users"]["cache-actors"]
    assert user["uid"] == int(uid)
    assert host["users"]["groups"][user["group"]]["gid"] == int(gid)


def test_host_without_keys_to_log_in_with_is_refused() -> None:
    without = evaluate_hosts(parameters="{ deployKeys = [ ]; }")
    with_one = evaluate_hosts(parameters='{ deployKeys = [ "ssh-ed25519 AAAA somebody" ]; }')
    for name in HOSTS:
        assert [name in message for message in without[name]["failed"]] == [True]
        assert with_one[name]["failed"] == []
        deploy = with_one[name]["config"]["users"]["users"]["deploy"]
        assert deploy["openssh"]["authorizedKeys"]["keys"] == ["ssh-ed25519 AAAA somebody"]


def test_nobody_logs_in_with_a_password(host: Any) -> None:
    assert host["services"]["openssh"]["settings"] == {
        "PasswordAuthentication": False,
        "KbdInteractiveAuthentication": False,
        "PermitRootLogin": "no",
    }
    assert not host["users"]["mutableUsers"]


def test_ssh_http_and_https_are_open_and_nothing_else(host: Any) -> None:
    firewall = host["networking"]["firewall"]
    assert firewall["enable"]
    assert sorted(firewall["allowedTCPPorts"]) == [22, 80, 443]
    assert firewall["allowedUDPPorts"] == []
    assert not host["services"]["openssh"]["openFirewall"]
    # Docker's published ports are not the firewall's to close.
    docker = host["virtualisation"]["docker"]["daemon"]["settings"]
    assert docker["ip"] == "127.0.0.1"
    assert docker["default-network-opts"]["bridge"] == {
        "com.docker.network.bridge.host_binding_ipv4": "127.0.0.1"
    }


def test_reads_move_access_times(host: Any) -> None:
    mount = host["fileSystems"]["/cas"]
    assert {"strictatime", "lazytime"} <= set(mount["options"])
    assert not {"ro", "noatime", "relatime", "nodiratime"} & set(mount["options"])
    assert "/cas" in host["systemd"]["services"]["nginx"]["serviceConfig"]["ReadWritePaths"]


def test_nothing_starts_without_the_storage_disk(host: Any) -> None:
    options = host["fileSystems"]["/cas"]["options"]
    assert {"nofail", "x-systemd.before=systemd-tmpfiles-setup.service"} <= set(options)
    for service in "nginx", "docker":
        unit = host["systemd"]["services"][service]["unitConfig"]
        assert unit["RequiresMountsFor"] == ["/cas"], service


def test_nginx_reads_what_is_stored_as_one_of_the_group(host: Any) -> None:
    assert host["users"]["users"]["nginx"]["extraGroups"] == ["cache-actors"]
    assert sorted(host["systemd"]["tmpfiles"]["rules"]) == [
        "d /cas 2750 10001 cache-actors -",
        "d /run/cache-actors 2770 10001 cache-actors -",
        "d /run/nginx-decisions 0700 nginx nginx -",
        "d /run/nginx-misses 0700 nginx nginx -",
        "f /run/cache-actors/answers.log 0660 10001 cache-actors -",
    ]


def test_nginx_and_the_service_share_a_folder_that_cannot_fill_others(host: Any) -> None:
    mount = host["fileSystems"]["/run/cache-actors"]
    assert mount["fsType"] == "tmpfs"
    assert {"size=64m", "mode=2770", "uid=10001", "gid=10001"} <= set(mount["options"])
    nginx = host["services"]["nginx"]["commonHttpConfig"]
    assert "access_log /run/cache-actors/answers.log cache_answers " in nginx
    writable = host["systemd"]["services"]["nginx"]["serviceConfig"]["ReadWritePaths"]
    assert "/run/cache-actors" in writable


def test_decisions_are_on_tmpfs_and_nginx_may_write_them(host: Any) -> None:
    [path] = re.findall(
        r"(?m)^ *proxy_cache_path (\S+)", host["services"]["nginx"]["commonHttpConfig"]
    )
    assert path.startswith("/run/")
    assert path in host["systemd"]["services"]["nginx"]["serviceConfig"]["ReadWritePaths"]


def test_nginx_may_open_all_the_files_that_it_keeps_open(host: Any) -> None:
    nginx = host["services"]["nginx"]
    [name] = nginx["virtualHosts"]
    kept = re.findall(r"open_file_cache +max=(\d+)", nginx["virtualHosts"][name]["extraConfig"])
    [connections] = re.findall(r"worker_connections (\d+);", nginx["eventsConfig"])
    needed = sum(map(int, kept)) + 2 * int(connections)
    assert len(kept) == 5
    assert host["systemd"]["services"]["nginx"]["serviceConfig"]["LimitNOFILE"] > needed


def test_new_configuration_of_nginx_cuts_no_connection_and_is_not_judged_by_gixy(host: Any) -> None:
    assert host["services"]["nginx"]["enableReload"]
    assert not host["services"]["nginx"]["validateConfigFile"]


def test_certificate_comes_from_acme_and_http_is_redirected(host: Any) -> None:
    [(name, site)] = host["services"]["nginx"]["virtualHosts"].items()
    assert name == host["services"]["cache-actors-nginx"]["hostName"]
    assert site["forceSSL"]
    assert site["enableACME"]
    assert host["security"]["acme"]["acceptTerms"]
    assert "@" in host["security"]["acme"]["defaults"]["email"]
    listen = {(where["addr"], where["port"], where["ssl"]) for where in site["listen"]}
    addresses = "0.0.0.0", "[::]"
    assert listen == {(a, p, s) for a in addresses for p, s in ((80, False), (443, True))}


def test_logs_are_rotated(host: Any) -> None:
    # NixOS gives the section its files: /var/log/nginx/*.log.
    assert host["services"]["logrotate"]["settings"]["nginx"] == {
        "frequency": "daily",
        "rotate": 14,
        "maxsize": "500M",
    }
    [log] = re.findall(
        r"access_log (\S+) cache_actors ", host["services"]["nginx"]["commonHttpConfig"]
    )
    assert re.fullmatch(r"/var/log/nginx/[^/]+\.log", log)
    docker = host["virtualisation"]["docker"]
    assert docker["logDriver"] in {"local", "json-file"}
    assert docker["daemon"]["settings"]["log-opts"] == {"max-size": "50m", "max-file": "5"}
    assert "SystemMaxUse=" in host["services"]["journald"]["extraConfig"]


def image_prune(config: Any) -> list[str]:
    """The command that removes old images."""
    words: list[str] = config["systemd"]["services"]["docker-image-prune"]["serviceConfig"][
        "ExecStart"
    ].split()
    return words


def test_old_images_are_removed_and_nothing_else(host: Any) -> None:
    assert host["virtualisation"]["docker"]["enable"]
    assert host["systemd"]["services"]["docker-image-prune"]["startAt"] == ["weekly"]
    program, *what = image_prune(host)
    assert program.endswith("/bin/docker")
    assert what[:2] == ["image", "prune"], "Kamal's network would go while the service is down"
    assert {"--force", "--all", "--filter=until=336h"} < set(what)


def test_each_setting_of_the_kernel_says_why() -> None:
    _, _, settings = (PLATFORM / "kernel.nix").read_text().partition("boot.kernel.sysctl = {\n")
    paragraphs = [text for text in settings.split("\n\n") if " = " in text]
    assert len(paragraphs) > 5
    assert not [text for text in paragraphs if not text.lstrip().startswith("#")]


def test_kernel_knows_each_setting(host: Any) -> None:
    for name in host["boot"]["kernel"]["sysctl"]:
        # Some belong to the network namespace of the host, and may not be seen in a container.
        if Path("/proc/sys", *name.split(".")[:2]).is_dir() and not name.startswith("net.core."):
            assert Path("/proc/sys", *name.split(".")).exists(), name


def test_settings_need_modules_that_are_loaded(host: Any) -> None:
    modules = host["boot"]["kernelModules"]
    congestion = host["boot"]["kernel"]["sysctl"]["net.ipv4.tcp_congestion_control"]
    assert f"tcp_{congestion}" in modules
    assert "Options KTLS" in host["services"]["nginx"]["commonHttpConfig"]
    assert "tls" in modules


def test_module_that_is_not_enabled_does_nothing() -> None:
    evaluated = evaluate(
        "builtins.mapAttrs (_: modules: ((import ./lib.nix).evalModules { inherit modules; })"
        ".config.services.nginx) { with_it = [ ./nixos.nix ../../platform/nginx.nix ];"
        " without = [ ./nixos.nix ]; }"
    )
    assert evaluated["with_it"] == evaluated["without"]
    assert not evaluated["with_it"]["enable"]
