use std::fmt;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::config::HttpConfig;
use crate::contradictions::is_exposed;

/// Fewest characters of a token: 16 of base64 are 96 bits, more than can be guessed.
pub const TOKEN_CHARS_MIN: usize = 16;

/// Largest token file that is read, in bytes; what is larger is not a token.
const TOKEN_FILE_BYTES_MAX: u64 = 64 << 10;

/// The text of `http.token_file`: what a request must bear. Not shown by `Debug`.
#[derive(Clone, PartialEq, Eq)]
pub struct TokenText(String);

/// A token that was read, and what is odd about its file.
#[derive(Debug)]
pub struct TokenFile {
    /// The token.
    pub token: TokenText,
    /// A sentence when others on this machine may read the file.
    pub warning: Option<String>,
}

/// Why there is no token.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// The file cannot be read.
    #[error("cannot read the token file {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The token is too short to keep anybody out.
    #[error(
        "the token in {} has {chars} characters; it must have at least {TOKEN_CHARS_MIN}, as from `openssl rand -hex 32`",
        path.display()
    )]
    TooShort {
        /// The file.
        path: PathBuf,
        /// Characters without white space around them.
        chars: usize,
    },
    /// Everybody on this machine may read the file, and everybody on the network may use what is in
    /// it.
    #[error("{sentence}; http.address can be reached from other machines, so that is refused")]
    Exposed {
        /// The file.
        path: PathBuf,
        /// What is odd about it.
        sentence: String,
    },
    /// The token cannot stand in an HTTP header.
    #[error(
        "the token in {} holds a character that an HTTP header cannot carry; it must be one word of visible ASCII characters",
        path.display()
    )]
    NotHeaderText {
        /// The file.
        path: PathBuf,
    },
}

impl TokenText {
    /// The token itself.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for TokenText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TokenText({} characters)", self.0.len())
    }
}

/// Reads and checks the file that `http.token_file` names; `None` when it names none.
///
/// # Errors
///
/// As [`read_token`], and when everybody on this machine may read a token that guards an address
/// which other machines can reach.
pub fn configured_token(http: &HttpConfig) -> Result<Option<TokenFile>, TokenError> {
    let Some(path) = &http.token_file else {
        return Ok(None);
    };
    let file = read_token(path)?;
    match file.warning {
        // Reached from this machine alone it is odd, but opens nothing to others.
        Some(sentence) if is_exposed(http) => Err(TokenError::Exposed {
            path: path.clone(),
            sentence,
        }),
        _ => Ok(Some(file)),
    }
}

/// Reads and checks a token file. White space around the token is dropped.
///
/// # Errors
///
/// When it cannot be read, or what it holds is no token.
pub fn read_token(path: &Path) -> Result<TokenFile, TokenError> {
    let failed = |source| TokenError::Read {
        path: path.to_owned(),
        source,
    };
    let metadata = std::fs::metadata(path).map_err(failed)?;
    if metadata.len() > TOKEN_FILE_BYTES_MAX {
        return Err(TokenError::NotHeaderText {
            path: path.to_owned(),
        });
    }
    let text = std::fs::read_to_string(path).map_err(failed)?;
    let token = text.trim();
    if !token.chars().all(|c| c.is_ascii_graphic()) {
        return Err(TokenError::NotHeaderText {
            path: path.to_owned(),
        });
    }
    if token.len() < TOKEN_CHARS_MIN {
        return Err(TokenError::TooShort {
            path: path.to_owned(),
            chars: token.len(),
        });
    }
    let mode = metadata.permissions().mode() & 0o777;
    let warning = (mode & 0o004 != 0).then(|| {
        format!(
            "everybody on this machine may read the token file {} (mode {mode:o}); chmod 600 it",
            path.display()
        )
    });
    Ok(TokenFile {
        token: TokenText(token.to_owned()),
        warning,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, Permissions};

    #[test]
    fn a_token_is_trimmed_and_checked() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        let read = |text: &str, mode| {
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            read_token(&path)
        };
        let file = read("  0123456789abcdef\n", 0o600).unwrap();
        assert_eq!(file.token.as_str(), "0123456789abcdef");
        assert_eq!(file.warning, None);
        assert!(!format!("{file:?}").contains("0123456789abcdef"));

        let warned = read("0123456789abcdef", 0o644).unwrap().warning.unwrap();
        assert!(warned.contains("mode 644"), "{warned}");
        assert!(read("0123456789abcdef", 0o640).unwrap().warning.is_none());

        assert!(matches!(
            read("0123456789abcde\n", 0o600),
            Err(TokenError::TooShort { chars: 15, .. })
        ));
        assert!(matches!(
            read("0123456789abcdef two", 0o600),
            Err(TokenError::NotHeaderText { .. })
        ));
        assert!(matches!(
            read(&"a".repeat(70_000), 0o600),
            Err(TokenError::NotHeaderText { .. })
        ));
        assert!(matches!(
            read_token(&dir.path().join("absent")),
            Err(TokenError::Read { .. })
        ));
    }
}
