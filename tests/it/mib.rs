//! PEERPAIR-MIB, checked with smilint as an SNMP manager's tools would read it.

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
fn mib_has_no_smilint_findings() {
    let mib = concat!(env!("CARGO_MANIFEST_DIR"), "/config-examples/PEERPAIR-MIB.txt");
    assert_eq!(smilint(mib), "");
    // A deliberately broken copy proves that the tool reports errors at all.
    let directory = tempfile::tempdir().unwrap();
    let broken = directory.path().join("PEERPAIR-MIB.txt");
    std::fs::write(&broken, std::fs::read_to_string(mib).unwrap().replacen("peerpairSource }", "peerpairSrc }", 1))
        .unwrap();
    assert_ne!(smilint(broken.to_str().unwrap()), "");
}
