//! Rules of the source tree that the compiler does not check: imports between modules, purity of `src/pure`, and the
//! list of top-level files.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

fn sources(directory: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { sources(&path) } else { vec![path] }).collect()
}

/// Returns the code of a file, without comment lines and without everything after the first `#[cfg(test)]`.
fn code(path: &Path) -> String {
    let text = std::fs::read_to_string(path).unwrap();
    let text = text.split("#[cfg(test)]").next().unwrap_or_default();
    text.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
}

/// Returns the modules that a file names after `crate::`, including those in braces.
fn imports(code: &str) -> BTreeSet<String> {
    let names = code.split("crate::").skip(1).flat_map(|rest| match rest.strip_prefix('{') {
        Some(group) => group.split('}').next().unwrap_or_default().split(',').map(str::trim).collect::<Vec<_>>(),
        None => vec![rest],
    });
    let first =
        |name: &str| name.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap_or_default().to_owned();
    names.map(first).filter(|name| !name.is_empty()).collect()
}

/// Returns the top-level modules that a module may import; only an actor's parent may import the actor, and nothing
/// imports the commands.
fn allowed(place: &str) -> &'static [&'static str] {
    match place {
        "pure" => &["pure"],
        "config" => &["config", "pure"],
        "io" => &["io", "config", "pure"],
        "web" => &["actor", "messages", "config", "io", "pure"],
        "messages" => &["config", "io", "pure"],
        "listener" | "pacer" | "sender" | "prober" | "sink" | "clock" => &["actor", "messages", "config", "io", "pure"],
        "actor" => &["actor", "messages", "io", "pure"],
        "watcher" => &["messages", "config", "io", "pure", "actor", "listener", "pacer", "sender", "prober"],
        "alarm" => &["messages", "config", "io", "pure", "actor", "sink"],
        "supervisor" => &["messages", "config", "io", "pure", "actor", "watcher", "alarm", "clock", "web", "exit"],
        "commands" => &["commands", "cli", "config", "io", "pure", "supervisor", "web", "exit"],
        "cli" => &["config", "pure"],
        "exit" | "lib" | "main" => &[],
        other => panic!("src/{other} is not in the picture: say here what it may import"),
    }
}

/// Source files by module path, such as `pure/alarm/key`; tests are left out.
struct Tree {
    files: BTreeMap<String, PathBuf>,
}

impl Tree {
    fn read() -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
        let modules = sources(&root).into_iter().filter_map(|path| {
            let relative = path.strip_prefix(&root).unwrap().with_extension("");
            let module = relative.to_string_lossy().trim_end_matches("/mod").to_owned();
            let is_code = path.extension().is_some_and(|ending| ending == "rs");
            let is_left_out = ["tests", "main", "lib"].iter().any(|name| relative.ends_with(name));
            (is_code && !is_left_out).then_some((module, path))
        });
        Tree { files: modules.collect() }
    }

    /// Returns the unit that a module belongs to: `x.rs` with the files below `x/` is one unit.
    fn unit(&self, module: &str) -> String {
        let ends = module.match_indices('/').map(|(end, _)| end);
        let above = ends
            .map(|end| &module[..end])
            .find(|above| self.files.get(*above).is_some_and(|path| !path.ends_with("mod.rs")));
        above.unwrap_or(module).to_owned()
    }

    /// Returns the units that a module imports by `crate::` or `super::`.
    fn imports(&self, module: &str) -> BTreeSet<String> {
        let code = code(&self.files[module]);
        let mut found = BTreeSet::new();
        for (at, _) in code.match_indices("crate::").chain(code.match_indices("super::")) {
            // The middle of `super::super::` belongs to its first step.
            if code[..at].ends_with("super::") || code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_') {
                continue;
            }
            let mut rest = &code[at..];
            let mut base: Vec<&str> = module.split('/').collect();
            if let Some(after) = rest.strip_prefix("crate::") {
                (base, rest) = (Vec::new(), after);
            }
            while let Some(after) = rest.strip_prefix("super::") {
                base.pop();
                rest = after;
            }
            let end = rest.find(|c: char| !(c.is_alphanumeric() || c == '_' || c == ':')).unwrap_or(rest.len());
            let path: Vec<&str> =
                base.into_iter().chain(rest[..end].split("::").filter(|part| !part.is_empty())).collect();
            let names: Vec<&str> = match rest[end..].strip_prefix('{') {
                Some(group) => group.split('}').next().unwrap_or_default().split(',').map(str::trim).collect(),
                None => vec![""],
            };
            for name in names {
                let full = path.iter().copied().chain([name]).filter(|part| !part.is_empty()).collect::<Vec<_>>();
                let longest = (1..=full.len()).rev().map(|n| full[..n].join("/")).find(|m| self.files.contains_key(m));
                found.extend(longest.map(|module| self.unit(&module)));
            }
        }
        found.remove(&self.unit(module));
        found
    }
}

#[test]
fn modules_do_not_import_each_other_in_circles() {
    let tree = Tree::read();
    let mut imports: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for module in tree.files.keys() {
        imports.entry(tree.unit(module)).or_default().extend(tree.imports(module));
    }
    assert!(imports["pure/judge/session"].contains("pure/alarm/key"), "imports are found");
    // Whatever imports nothing that is left is in no circle.
    loop {
        let done: Vec<String> = imports
            .iter()
            .filter(|(_, of)| !of.iter().any(|other| imports.contains_key(other)))
            .map(|(unit, _)| unit.clone())
            .collect();
        if done.is_empty() {
            break;
        }
        done.iter().for_each(|unit| drop(imports.remove(unit)));
    }
    assert_eq!(imports, BTreeMap::new(), "what remains is in a circle, or imports one");
}

#[test]
fn imports_between_modules_follow_the_architecture() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut wrong = Vec::new();
    for path in sources(&root).iter().filter(|path| path.extension().is_some_and(|ending| ending == "rs")) {
        if path.ends_with("tests.rs") {
            continue;
        }
        let relative = path.strip_prefix(&root).unwrap();
        let place = relative.iter().next().unwrap().to_string_lossy().trim_end_matches(".rs").to_owned();
        for name in imports(&code(path)) {
            if !allowed(&place).contains(&name.as_str()) {
                wrong.push(format!("{} imports {name}", relative.display()));
            }
        }
    }
    assert_eq!(wrong, [""; 0]);
}

#[test]
fn pure_code_uses_no_clock_socket_or_actor() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/pure");
    let forbidden = [
        "actix",
        "tokio",
        "nix::",
        "socket2",
        "reqwest",
        "tracing",
        "Instant",
        "SystemTime::now",
        "std::fs",
        "std::thread",
        "fastrand",
    ];
    let mut wrong = Vec::new();
    for path in sources(&root).iter().filter(|path| path.extension().is_some_and(|ending| ending == "rs")) {
        // Tests may use `fastrand`, since their random numbers come from a fixed seed.
        if path.ends_with("tests.rs") {
            continue;
        }
        let code = code(path);
        let found = forbidden.iter().filter(|word| code.contains(*word));
        wrong.extend(found.map(|word| format!("{} uses {word}", path.display())));
    }
    assert_eq!(wrong, [""; 0]);
}

#[test]
fn top_level_source_files_are_the_expected_ones() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let names: BTreeSet<String> = std::fs::read_dir(root)
        .unwrap()
        .map(|entry| entry.unwrap())
        .filter(|entry| entry.path().is_file())
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    let expected = [
        "alarm.rs",
        "cli.rs",
        "clock.rs",
        "exit.rs",
        "lib.rs",
        "listener.rs",
        "main.rs",
        "messages.rs",
        "pacer.rs",
        "prober.rs",
        "sender.rs",
        "sink.rs",
        "supervisor.rs",
        "watcher.rs",
        "web.rs",
    ];
    assert_eq!(names.into_iter().collect::<Vec<_>>(), expected);
}
