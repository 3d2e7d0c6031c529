# A small stand-in for nixpkgs' lib: as much of its module system as the modules of platform/ use. It is
# as strict as the real one where that finds mistakes: an option that does not exist, a value of another
# type, two different values for one option, an option that is used but has no value.
let
  inherit (builtins)
    all
    attrNames
    concatLists
    concatMap
    concatStringsSep
    elem
    filter
    foldl'
    head
    isAttrs
    isBool
    isFunction
    isInt
    isList
    isString
    length
    listToAttrs
    map
    mapAttrs
    ;

  isA = kind: value: isAttrs value && value._type or null == kind;
  show = concatStringsSep ".";
  unique = foldl' (seen: name: if elem name seen then seen else seen ++ [ name ]) [ ];
  names = values: unique (concatMap attrNames values);

  # --- Definitions: what stands in a config, with its conditions and priorities ---

  mkIf = condition: content: {
    _type = "if";
    inherit condition content;
  };
  mkMerge = contents: {
    _type = "merge";
    inherit contents;
  };
  mkOverride = priority: content: {
    _type = "override";
    inherit priority content;
  };
  mkForce = mkOverride 50;
  mkDefault = mkOverride 1000;

  # The values of one definition, each with its priority.
  discharge =
    definition:
    if isA "if" definition then
      (if definition.condition then discharge definition.content else [ ])
    else if isA "merge" definition then
      concatMap discharge definition.contents
    else if isA "override" definition then
      map (value: value // { inherit (definition) priority; }) (discharge definition.content)
    else
      [
        {
          priority = 100;
          value = definition;
        }
      ];

  # The values that count: those with the strongest priority.
  strongest =
    definitions:
    let
      found = concatMap discharge definitions;
      best = foldl' (least: d: if d.priority < least then d.priority else least) 9999 found;
    in
    map (d: d.value) (filter (d: d.priority == best) found);

  # A definition of a set of options as plain sets, conditions moved to what is in them: what there is
  # must not depend on the conditions, which look at options themselves.
  pushDown =
    definition:
    if isA "if" definition then
      map (mapAttrs (_: mkIf definition.condition)) (pushDown definition.content)
    else if isA "merge" definition then
      concatMap pushDown definition.contents
    else if isA "override" definition then
      map (mapAttrs (_: mkOverride definition.priority)) (pushDown definition.content)
    else
      [ definition ];

  # --- Types ---

  mkType = name: check: merge: { inherit name check merge; };

  mergeEqual =
    path: values:
    if all (value: value == head values) values then
      head values
    else
      throw "The option `${show path}' has conflicting values";

  mergeOption =
    path: type: definitions:
    let
      values = strongest definitions;
    in
    if all type.check values then
      type.merge path values
    else
      throw "A value of `${show path}' is not of the type ${type.name}";

  scalar = name: check: mkType name check mergeEqual;

  types = rec {
    str = scalar "str" isString;
    bool = scalar "bool" isBool;
    int = scalar "int" isInt;
    ints.positive = scalar "positive int" (value: isInt value && value > 0);
    port = scalar "port" (value: isInt value && value >= 0 && value <= 65535);
    path = scalar "path" (value: isString value && builtins.substring 0 1 value == "/");
    lines = mkType "lines" isString (_: concatStringsSep "\n");
    enum = allowed: scalar "one of some values" (value: elem value allowed);
    anything = scalar "anything" (_: true);
    nullOr =
      type:
      mkType "null or ${type.name}" (value: value == null || type.check value) (
        path: values: if all (value: value == null) values then null else type.merge path values
      );
    listOf =
      type:
      mkType "list of ${type.name}" isList (
        path: values: map (value: mergeOption path type [ value ]) (concatLists values)
      );
    attrsOf =
      type:
      mkType "attribute set of ${type.name}" isAttrs (
        path: values:
        let
          definitionsOf = name: map (value: value.${name}) (filter (value: value ? ${name}) values);
          present = filter (name: strongest (definitionsOf name) != [ ]) (names values);
        in
        listToAttrs (
          map (name: {
            inherit name;
            value = mergeOption (path ++ [ name ]) type (definitionsOf name);
          }) present
        )
      );
    submodule = options: mkType "submodule" isAttrs (path: evalOptions path options);
  };

  # --- Options ---

  mkOption = option: { _type = "option"; } // option;
  mkEnableOption =
    what:
    mkOption {
      type = types.bool;
      default = false;
      description = "Whether to enable ${what}.";
    };

  mergeOptions =
    path: sets:
    listToAttrs (
      map (
        name:
        let
          found = map (set: set.${name}) (filter (set: set ? ${name}) sets);
        in
        {
          inherit name;
          value =
            if length found == 1 then
              head found
            else if all (option: !isA "option" option) found then
              mergeOptions (path ++ [ name ]) found
            else
              throw "The option `${show (path ++ [ name ])}' is declared twice";
        }
      ) (names sets)
    );

  evalOption =
    path: option: definitions:
    if strongest definitions != [ ] then
      mergeOption path option.type definitions
    else if option ? default then
      option.default
    else
      throw "The option `${show path}' is used but not defined";

  evalOptions =
    path: options: definitions:
    let
      sets = concatMap pushDown definitions;
      definitionsOf = name: map (set: set.${name}) (filter (set: set ? ${name}) sets);
      value = mapAttrs (
        name: option:
        (if isA "option" option then evalOption else evalOptions) (path ++ [ name ]) option (
          definitionsOf name
        )
      ) options;
      unknown = filter (name: !options ? ${name}) (names sets);
    in
    if unknown == [ ] then
      value
    else
      throw "The option `${show (path ++ [ (head unknown) ])}' does not exist";

  # --- Modules ---

  evalModules =
    {
      modules,
      specialArgs ? { },
    }:
    let
      collect =
        module:
        let
          content = if isFunction module || isAttrs module then module else import module;
          applied =
            if isFunction content then
              content (
                {
                  inherit config lib;
                  pkgs = throw "there is no pkgs here";
                }
                // specialArgs
              )
            else
              content;
          long = applied ? config || applied ? options;
          strange = attrNames (
            removeAttrs applied [
              "imports"
              "options"
              "config"
            ]
          );
        in
        if long && strange != [ ] then
          throw "A module has `${head strange}' beside its config or options"
        else
          [
            {
              options = applied.options or { };
              config = if long then applied.config or { } else removeAttrs applied [ "imports" ];
            }
          ]
          ++ concatMap collect (applied.imports or [ ]);
      all = concatMap collect modules;
      options = mergeOptions [ ] (map (module: module.options) all);
      config = evalOptions [ ] options (map (module: module.config) all);
    in
    {
      inherit config options;
    };

  lib = {
    inherit
      evalModules
      mkDefault
      mkEnableOption
      mkForce
      mkIf
      mkMerge
      mkOption
      mkOverride
      types
      ;
  };
in
lib
