//! README and `docs/`: every example is read or run, and the tables of fields are complete.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, Stdio};

use peerpair::config::bootstrap::{Bootstrap, Overrides};
use peerpair::config::check::document::read_document;
use peerpair::config::document::deserialize::field_names;
use peerpair::config::document::findings::Findings;
use peerpair::config::document::fleet::FleetDocument;
use peerpair::config::document::host::HostDocument;
use peerpair::config::document::raw::RawDocument;
use peerpair::config::document::set::SetDocument;
use peerpair::config::document::settings::{ALARM_SETTINGS_OF_TESTS, AlarmSettings, CommonSettings, StampSettings};
use peerpair::config::document::sinks::SinkConfig;
use peerpair::config::document::test::TestDocument;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

fn text(path: &str) -> String {
    std::fs::read_to_string(Path::new(ROOT).join(path)).unwrap()
}

fn pages() -> Vec<String> {
    let docs = std::fs::read_dir(Path::new(ROOT).join("docs")).unwrap();
    let docs = docs.map(|entry| format!("docs/{}", entry.unwrap().file_name().to_string_lossy()));
    docs.chain(["README.md".to_owned()]).collect()
}

/// Returns the code blocks of a language, each with the line before it.
fn blocks(page: &str, language: &str) -> Vec<(String, String)> {
    let text = text(page);
    let lines: Vec<&str> = text.lines().collect();
    let starts = lines.iter().enumerate().filter(|(_, line)| **line == format!("```{language}"));
    let block = |(n, _): (usize, &&str)| {
        let code: Vec<&str> = lines[n + 1..].iter().copied().take_while(|line| *line != "```").collect();
        (lines[n.saturating_sub(1)].to_owned(), code.join("\n"))
    };
    starts.map(block).collect()
}

#[test]
fn examples_of_documents_have_no_findings() {
    let mut checked = 0;
    for page in pages() {
        for (label, code) in blocks(&page, "json") {
            let key = label.strip_prefix("<!-- ").and_then(|label| label.strip_suffix(" -->"));
            let key = key.unwrap_or_else(|| panic!("{page}: no key before\n{code}"));
            let (document, findings) = read_document(key, &RawDocument::of_store(key, Ok(code.clone()), 0));
            assert!(document.is_some() && findings.is_empty(), "{page}: {key}: {findings:?}\n{code}");
            checked += 1;
        }
        for (label, code) in blocks(&page, "toml") {
            assert_eq!(label, "<!-- peerpair.toml -->", "{page}:\n{code}");
            let mut findings = Findings::about(&page);
            Bootstrap::read(&code, Path::new("/etc/peerpair.toml"), &Overrides::default(), "host-a", &mut findings);
            assert!(findings.into_vec().is_empty(), "{page}:\n{code}");
            checked += 1;
        }
    }
    assert!(checked > 10, "{checked} examples were found");
}

/// Returns the fields that the first column of the tables below a heading names.
fn fields_below(heading: &str) -> BTreeSet<String> {
    let text = text("docs/configuration.md");
    let level = heading.split(' ').next().unwrap().len();
    let below = text.lines().skip_while(|line| *line != heading).skip(1);
    let section = below.take_while(|line| !line.starts_with('#') || line.split(' ').next().unwrap().len() > level);
    let rows = section.filter(|line| line.starts_with("| `"));
    let first = rows.filter_map(|row| row.split('|').nth(1).map(str::to_owned));
    first.flat_map(|cell| cell.split('`').skip(1).step_by(2).map(str::to_owned).collect::<Vec<_>>()).collect()
}

#[test]
fn tables_of_the_configuration_name_every_field_that_exists_and_no_other() {
    let set = |lists: &[&[&str]]| -> BTreeSet<String> {
        lists.iter().flat_map(|list| list.iter().map(|name| (*name).to_owned())).collect()
    };
    let settings = set(&[field_names::<CommonSettings>(), field_names::<StampSettings>()]);
    assert_eq!(fields_below("### Settings of a test"), settings);
    let alarm = set(&[field_names::<AlarmSettings>()]);
    assert_eq!(fields_below("### Alarm settings"), alarm);
    assert!(alarm.is_superset(&set(&[&ALARM_SETTINGS_OF_TESTS])));
    assert_eq!(fields_below("### `config`"), set(&[field_names::<FleetDocument>(), &["defaults"]]));
    assert_eq!(fields_below("### `hosts/<host>`"), set(&[field_names::<HostDocument>()]));
    assert_eq!(fields_below("### `sets/<name>`"), set(&[field_names::<SetDocument>(), &["to.at"]]));
    assert_eq!(fields_below("### `tests/<host>/<name>`"), set(&[field_names::<TestDocument>()]));
    // The fields of sinks are listed by kind, in prose.
    let text = text("docs/configuration.md");
    for field in field_names::<SinkConfig>() {
        let base = field.trim_end_matches("_env");
        assert!(text.contains(&format!("`{base}")) || field.ends_with("_env"), "no word about the field {field}");
    }
}

/// Follows the README's first test in a network namespace of its own, since its ports and addresses are fixed.
#[test]
fn first_test_of_the_readme_works_as_written() {
    let directory = tempfile::tempdir().unwrap();
    let place = directory.path().join("peerpair");
    let scripts: Vec<String> = blocks("README.md", "sh").into_iter().map(|(_, code)| code).collect();
    let adapted = |code: &str| {
        code.replace("cargo build --release", "")
            .replace("\"$OLDPWD/target/release/peerpair\"", env!("CARGO_BIN_EXE_peerpair"))
            .replace("target/release/peerpair", env!("CARGO_BIN_EXE_peerpair"))
            .replace("/tmp/peerpair", place.to_str().unwrap())
    };
    let first = scripts.iter().find(|code| code.contains("host-b.toml")).expect("the first terminal");
    let second =
        scripts.iter().find(|code| code.contains("host-a.toml") && *code != first).expect("the second terminal");
    let script = format!(
        "set -e; ip link set lo up\n\
         wait_for() {{ for _ in $(seq 300); do grep -q \"$1\" log && return; read -rt 0.1 <> <(:) || :; done; cat log; exit 1; }}\n\
         {} > log 2>&1 &\nreceiver=$!\ncd {}\nwait_for 'alarm raised: host-a → host-b'\n\
         {} > /dev/null 2>&1 &\nsender=$!\nwait_for 'alarm cleared: host-a → host-b'\nkill $sender $receiver\nwait\n",
        adapted(first),
        place.display(),
        adapted(second),
    );
    let output = Command::new("unshare")
        .args(["--net", "bash", "-c", &script])
        .current_dir(directory.path())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let shown = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "as root, in a network namespace:\n{script}\n{shown}");
}
