# The hosts, as NixOS systems. Once, to pin nixpkgs: nix flake lock ./platform, and commit flake.lock.
# The first time is described in docs/how-to/deployment.md; from then on:
#
#   nixos-rebuild switch --flake ./platform#production --target-host deploy@cache.example.com --sudo
{
  description = "Hosts of the Cache Actors service";

  inputs.nixpkgs.url = "github:NixOS/nixpkgs/nixos-26.05";

  outputs =
    { nixpkgs, ... }:
    {
      nixosConfigurations = builtins.mapAttrs (
        name: host:
        nixpkgs.lib.nixosSystem {
          specialArgs.host = host // {
            inherit name;
          };
          modules = [ ./configuration.nix ];
        }
      ) (import ./hosts.nix);
    };
}
