# The hosts of platform/flake.nix, evaluated with the stand-ins. `change`, a module, is added to each,
# and `parameters` take the place of those in platform/hosts.nix.
#
# What is found is `config`, and `failed`: the messages of the assertions that stop a real build.
{
  change ? { },
  parameters ? { },
}:

let
  lib = import ./lib.nix;
  flake = import ../../platform/flake.nix;
  outputs = flake.outputs {
    self = { };
    nixpkgs.lib.nixosSystem =
      { modules, specialArgs }:
      lib.evalModules {
        modules = modules ++ [
          ./nixos.nix
          change
        ];
        specialArgs = specialArgs // {
          host = specialArgs.host // parameters;
        };
      };
  };
in
builtins.mapAttrs (_: system: {
  inherit (system) config;
  failed = map (found: found.message) (
    builtins.filter (found: !found.assertion) system.config.assertions
  );
}) outputs.nixosConfigurations
