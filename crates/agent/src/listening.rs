use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::Serialize;

/// What an agent bound, as told to programs beside it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Listening {
    /// The address of the HTTP API.
    pub http: SocketAddr,
    /// Where a server of a cluster listens for the others.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peer: Option<SocketAddr>,
    /// The process.
    pub pid: u32,
    /// The node's name.
    pub node: String,
}

/// Name of the file in the data directory.
pub const LISTENING_FILE: &str = "listening.json";

/// `listening.json`, there as long as this lives.
///
/// It is put in place by a rename, so that a reader sees the whole file or none. A crash leaves it
/// behind: when no process has its `pid` any more, or that process is another program, no agent
/// listens there.
#[derive(Debug)]
pub(crate) struct ListeningFile {
    path: PathBuf,
}

impl ListeningFile {
    pub(crate) fn write(data_dir: &Path, listening: &Listening) -> io::Result<ListeningFile> {
        let path = data_dir.join(LISTENING_FILE);
        let mut file = tempfile::Builder::new()
            .prefix("listening-")
            // The store clears files of this name away when a crash leaves one behind.
            .suffix(".tmp")
            .tempfile_in(data_dir)?;
        serde_json::to_writer(&mut file, listening)?;
        file.write_all(b"\n")?;
        // Not a secret: whoever may look into the directory (by default its owner's group) may know
        // the port.
        file.as_file()
            .set_permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644))?;
        file.persist(&path).map_err(|error| error.error)?;
        Ok(ListeningFile { path })
    }
}

impl Drop for ListeningFile {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "cannot remove the listening file");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_whole_while_it_is_there_and_gone_after() {
        let dir = tempfile::tempdir().unwrap();
        let listening = Listening {
            http: SocketAddr::from(([127, 0, 0, 1], 7480)),
            peer: None,
            pid: 42,
            node: "n1".to_owned(),
        };
        // Left behind by a crash: replaced.
        std::fs::write(dir.path().join(LISTENING_FILE), "{\"http\"").unwrap();
        let file = ListeningFile::write(dir.path(), &listening).unwrap();
        let text = std::fs::read_to_string(dir.path().join(LISTENING_FILE)).unwrap();
        assert_eq!(
            text,
            "{\"http\":\"127.0.0.1:7480\",\"pid\":42,\"node\":\"n1\"}\n"
        );
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
        drop(file);
        let server = Listening {
            peer: Some(SocketAddr::from(([127, 0, 0, 1], 7481))),
            ..listening
        };
        let file = ListeningFile::write(dir.path(), &server).unwrap();
        let text = std::fs::read_to_string(dir.path().join(LISTENING_FILE)).unwrap();
        assert_eq!(
            text,
            "{\"http\":\"127.0.0.1:7480\",\"peer\":\"127.0.0.1:7481\",\"pid\":42,\"node\":\"n1\"}\n"
        );
        drop(file);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
