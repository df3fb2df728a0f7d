//! What the binary does without an agent.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod real_agent;

use std::net::TcpListener;
use std::process::Output;

fn tidings(args: &[&str]) -> Output {
    real_agent::output(real_agent::tidings().args(args))
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// An address where nobody listens.
fn nobody() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().to_string()
}

#[test]
fn without_an_agent_the_error_says_what_to_do() {
    let address = nobody();
    for verb in [
        &["status"][..],
        &["publish", "T", "t", "--retry", "0"],
        &["state", "get", "T", "k"],
        &["state", "list", "T"],
    ] {
        let output = tidings(&[&["--addr", &address], verb].concat());
        let stderr = stderr(&output);
        assert_eq!(output.status.code(), Some(1), "{verb:?}: {stderr}");
        assert!(stderr.starts_with("error: cannot "), "{stderr}");
        assert!(
            stderr.contains(&format!("cannot connect to http://{address}")),
            "{stderr}"
        );
        assert!(stderr.contains("because: Connection refused"), "{stderr}");
        assert!(stderr.contains("hint: is an agent running at "), "{stderr}");
        assert!(stderr.contains("tidings agent --dev"), "{stderr}");
    }
}

#[test]
fn a_wrong_command_line_is_exit_code_two() {
    for (args, said) in [
        (
            &["--addr", "https://h", "status"][..],
            "https:// is not spoken",
        ),
        (&["--addr", "h:x", "status"], "is not an address"),
        (
            &["publish", "T", "t", "--payload", "[1]"],
            "not a JSON object",
        ),
        (&["publish", "T"], "<TYPE>"),
        (&["agent", "--addr", "h:1"], "--http"),
        (&["sing"], "unrecognized subcommand"),
    ] {
        let output = tidings(args);
        let stderr = stderr(&output);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {stderr}");
        assert!(stderr.contains(said), "{args:?}: {stderr}");
    }
}

#[test]
fn a_token_is_not_told_in_errors() {
    let output = tidings(&["--addr", &nobody(), "--token", "hush-hush", "status"]);
    assert!(!stderr(&output).contains("hush-hush"));
    let output = tidings(&["--token", "hush\nhush", "status"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(!stderr(&output).contains("hush\\n"), "{}", stderr(&output));
}

#[test]
fn completions_for_every_shell() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let output = tidings(&["completions", shell]);
        assert!(output.status.success());
        assert!(String::from_utf8_lossy(&output.stdout).contains("publish"));
    }
}

#[test]
fn manual_pages() {
    let output = tidings(&["man"]);
    assert!(String::from_utf8_lossy(&output.stdout).contains(".TH tidings 1"));
    let directory = tempfile::tempdir().unwrap();
    let out = directory.path().join("man1");
    let output = tidings(&["man", "--out", out.to_str().unwrap()]);
    assert!(output.status.success(), "{}", stderr(&output));
    for page in ["tidings.1", "tidings-stream.1", "tidings-state-put.1"] {
        assert!(out.join(page).is_file(), "{page}");
    }
}

#[test]
fn verify_of_no_data_directory_fails() {
    let directory = tempfile::tempdir().unwrap();
    let output = tidings(&["verify", "--data-dir", directory.path().to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        stderr(&output).starts_with("error: cannot check "),
        "{}",
        stderr(&output)
    );
}
