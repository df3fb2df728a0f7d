//! Where things are.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

/// The repository and its target directory.
pub struct Workspace {
    root: PathBuf,
    target: PathBuf,
}

impl Workspace {
    /// Ask cargo, which alone knows of `CARGO_TARGET_DIR` and configuration files.
    pub fn find() -> Result<Self> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"))
            .parent()
            .context("xtask lies in the root of the repository")?
            .to_path_buf();
        let output = cargo()
            .args(["metadata", "--no-deps", "--format-version", "1"])
            .current_dir(&root)
            .output()
            .context("cannot run cargo")?;
        if !output.status.success() {
            bail!(
                "cargo metadata failed: {}",
                String::from_utf8_lossy(&output.stderr)
            );
        }
        let target = string_field(&String::from_utf8_lossy(&output.stdout), "target_directory")
            .map(PathBuf::from)
            .context("cargo metadata names no target_directory")?;
        Ok(Self { root, target })
    }

    /// The folder with the workspace's `Cargo.toml`.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// A path in the repository.
    pub fn path(&self, relative: &str) -> PathBuf {
        self.root.join(relative)
    }

    /// A path in the target directory.
    pub fn target(&self, relative: &str) -> PathBuf {
        self.target.join(relative)
    }

    /// The `tidings` binary of a cargo profile folder, `debug` or `release`.
    pub fn tidings(&self, profile: &str) -> PathBuf {
        self.target
            .join(profile)
            .join(format!("tidings{}", std::env::consts::EXE_SUFFIX))
    }

    /// A cargo command in the root of the repository.
    pub fn cargo<I, S>(&self, arguments: I) -> Command
    where
        I: IntoIterator<Item = S>,
        S: AsRef<OsStr>,
    {
        let mut command = cargo();
        command.current_dir(&self.root).args(arguments);
        command
    }
}

/// The cargo that runs us, so that a `+toolchain` stays in force.
fn cargo() -> Command {
    Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

/// The value of a top-level string field in cargo's JSON; paths there bear no escapes but `\\`.
fn string_field(json: &str, name: &str) -> Option<String> {
    let start = format!("\"{name}\":\"");
    let value = &json[json.find(&start)? + start.len()..];
    Some(value[..value.find('"')?].replace("\\\\", "\\"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn target_directory_is_read_from_cargo_metadata() {
        let json = r#"{"packages":[],"target_directory":"/a b/target","version":1}"#;
        assert_eq!(
            string_field(json, "target_directory").as_deref(),
            Some("/a b/target")
        );
        assert_eq!(string_field(json, "absent"), None);
    }
}
