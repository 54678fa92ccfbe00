//! Where replicas are kept, as an operator writes it.

use std::fmt;
use std::path::{Component, Path, PathBuf};
use std::str::FromStr;

/// `file:///var/backups/bulkhead` or `s3://bucket/prefix`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Location {
    /// An absolute path.
    Folder(PathBuf),
    /// `prefix` has no slash at either end and may be empty.
    Bucket { bucket: String, prefix: String },
}

/// Why a text names no location.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("replica location {url:?}: {why}")]
pub struct WrongLocation {
    url: String,
    why: String,
}

impl WrongLocation {
    /// Without the text itself, in which somebody may have put a secret.
    #[must_use]
    pub fn why(&self) -> &str {
        &self.why
    }
}

impl FromStr for Location {
    type Err = WrongLocation;

    fn from_str(url: &str) -> Result<Self, WrongLocation> {
        let wrong = |why: &str| Err(WrongLocation { url: url.to_owned(), why: why.to_owned() });
        let Some((scheme, rest)) = url.split_once("://") else {
            return wrong("expected file:///a/folder or s3://bucket/prefix");
        };
        // Credentials and options have settings of their own; a location is shown in logs and pages.
        if rest.contains(['?', '#', '@']) {
            return wrong("it holds a path alone: no '?', '#' or '@'");
        }
        match scheme {
            "file" => {
                let path = Path::new(rest);
                if !rest.starts_with('/') {
                    return wrong("a folder is written with three slashes: file:///a/folder");
                }
                if path.components().any(|part| matches!(part, Component::ParentDir)) || rest.contains('\0') {
                    return wrong("'..' is not allowed in a folder");
                }
                // Collected, so that doubled slashes and "/./" are gone.
                let path: PathBuf = path.components().collect();
                if path.parent().is_none() {
                    return wrong("the root of the file system is no place for replicas");
                }
                Ok(Self::Folder(path))
            }
            "s3" => {
                let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
                let letters = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b".-".contains(&byte);
                if !(3..=63).contains(&bucket.len()) || !bucket.bytes().all(letters) {
                    return wrong("a bucket has 3 to 63 of the characters a-z, 0-9, '.' and '-'");
                }
                // It may become a part of a host's name.
                if bucket.starts_with(['.', '-']) || bucket.ends_with(['.', '-']) || bucket.contains("..") {
                    return wrong("a bucket begins and ends with a letter or a digit, and has no two dots in a row");
                }
                let prefix = prefix.trim_matches('/');
                if !prefix.is_empty() && !is_key(prefix) {
                    return wrong(
                        "a prefix has parts of A-Z, a-z, 0-9, '.', '_', '-', '=' and '+' between single slashes",
                    );
                }
                Ok(Self::Bucket { bucket: bucket.to_owned(), prefix: prefix.to_owned() })
            }
            _ => wrong("its scheme is neither file nor s3"),
        }
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Folder(path) => write!(f, "file://{}", path.display()),
            Self::Bucket { bucket, prefix } if prefix.is_empty() => write!(f, "s3://{bucket}"),
            Self::Bucket { bucket, prefix } => write!(f, "s3://{bucket}/{prefix}"),
        }
    }
}

/// Whether these are path segments that mean the same to a file system, a bucket and an URL. `.` and `..`
/// are not, and neither is anything that a client would have to encode.
#[must_use]
pub fn is_key(path: &str) -> bool {
    path.split('/').all(|part| {
        !part.is_empty()
            && !part.bytes().all(|byte| byte == b'.')
            && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-=+".contains(&byte))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locations_are_read() {
        let folder: Location = "file:///var//backups/./bulkhead/".parse().unwrap();
        assert_eq!(folder, Location::Folder("/var/backups/bulkhead".into()));
        assert_eq!(folder.to_string(), "file:///var/backups/bulkhead");
        let bucket: Location = "s3://my-bucket/a/b/".parse().unwrap();
        assert_eq!(bucket, Location::Bucket { bucket: "my-bucket".into(), prefix: "a/b".into() });
        assert_eq!(bucket.to_string(), "s3://my-bucket/a/b");
        assert_eq!("s3://my-bucket".parse::<Location>().unwrap().to_string(), "s3://my-bucket");
    }

    #[test]
    fn wrong_locations_say_why() {
        for (url, why) in [
            ("/var/backups", "expected file:///"),
            ("file://var/backups", "three slashes"),
            ("file:///var/../etc", "'..'"),
            ("file:///", "root"),
            ("gs://bucket/x", "neither file nor s3"),
            ("secret://bucket/x", "neither file nor s3"),
            ("s3://", "3 to 63"),
            ("s3://Bucket", "3 to 63"),
            ("s3://.../a", "letter or a digit"),
            ("s3://-bucket/a", "letter or a digit"),
            ("s3://my..bucket/a", "two dots"),
            ("s3://bucket/a//b", "prefix"),
            ("s3://bucket/a/../b", "prefix"),
            ("s3://key:secret@bucket/a", "'@'"),
            ("s3://bucket/a?region=x", "'?'"),
        ] {
            let error = url.parse::<Location>().unwrap_err();
            assert!(error.to_string().contains(why), "{url}: {error}");
            assert!(!error.why().contains("secret"), "{url}: {error}");
        }
    }
}
