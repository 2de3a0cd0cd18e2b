//! Rules of the source tree that the compiler does not check: imports between modules, purity of `src/pure`, and the
//! list of top-level files.

use std::collections::BTreeSet;
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

/// Returns the modules that a module may import; only an actor's parent may import the actor.
fn allowed(place: &str) -> &'static [&'static str] {
    match place {
        "pure" => &["pure"],
        "config" => &["config", "pure"],
        "io" => &["io", "config", "pure"],
        "web" => &["messages", "config", "io", "pure"],
        "messages" => &["config", "io", "pure"],
        "listener" | "pacer" | "sender" | "sink" | "clock" => &["messages", "config", "io", "pure"],
        "tree" => &["messages", "io", "pure"],
        "watcher" => &["messages", "config", "io", "pure", "tree", "listener", "pacer", "sender"],
        "alarm" => &["messages", "config", "io", "pure", "tree", "sink"],
        "supervisor" => &["messages", "config", "io", "pure", "tree", "watcher", "alarm", "clock", "web", "run"],
        "run" => &["cli", "config", "io", "pure", "supervisor", "web"],
        "cli" => &["config", "io", "pure", "run"],
        "lib" | "main" => &[],
        other => panic!("src/{other} is not in the picture: say here what it may import"),
    }
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
        "lib.rs",
        "listener.rs",
        "main.rs",
        "messages.rs",
        "pacer.rs",
        "run.rs",
        "sender.rs",
        "sink.rs",
        "supervisor.rs",
        "watcher.rs",
        "web.rs",
    ];
    assert_eq!(names.into_iter().collect::<Vec<_>>(), expected);
}
