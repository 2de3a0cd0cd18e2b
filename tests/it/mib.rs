//! PEERPAIR-MIB as MIB tools read it.

use std::process::Command;

fn smilint(path: &str) -> String {
    let root = env!("CARGO_MANIFEST_DIR");
    let output = Command::new("smilint")
        .env("SMIPATH", format!("{root}/tests/mibs"))
        .args(["-l", "6", path])
        .output()
        .unwrap_or_else(|error| panic!("smilint: {error}; install it with: apt-get install smitools"));
    String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
}

#[test]
fn lint_clean() {
    let mib = concat!(env!("CARGO_MANIFEST_DIR"), "/config-examples/PEERPAIR-MIB.txt");
    assert_eq!(smilint(mib), "");
    // The tool does find what is wrong.
    let directory = tempfile::tempdir().unwrap();
    let broken = directory.path().join("PEERPAIR-MIB.txt");
    std::fs::write(&broken, std::fs::read_to_string(mib).unwrap().replacen("peerpairSource }", "peerpairSrc }", 1))
        .unwrap();
    assert_ne!(smilint(broken.to_str().unwrap()), "");
}
