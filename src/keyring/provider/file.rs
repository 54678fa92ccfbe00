//! The file of the master key: one key a line, the one that wraps first.
//!
//! A file of one line is what every deployment begins with. While a rotation is under way there is a second line, for
//! what was wrapped before. It is always replaced as a whole: a crash leaves the old one or the new one.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use zeroize::Zeroizing;

use crate::base::{Error, Result, codes};
use crate::crypto::MasterKey;
use crate::sqlite::sync_directory;

/// The keys in the file, the current one first.
pub fn read(path: &Path) -> Result<Vec<MasterKey>> {
    let mode = fs::metadata(path).map(|metadata| metadata.permissions().mode() & 0o777);
    if mode.is_ok_and(|mode| mode & 0o077 != 0) {
        return Err(wrong(&format!("others can read the master key file {}: set its mode to 0600", path.display())));
    }
    let text = fs::read_to_string(path)
        .map_err(|error| Error::internal(format!("cannot read {}", path.display())).source(error))?;
    let text = Zeroizing::new(text);
    // What stands behind a # is for people.
    let lines = text.lines().map(|line| line.split('#').next().unwrap_or_default().trim());
    let keys: Option<Vec<MasterKey>> = lines.filter(|line| !line.is_empty()).map(MasterKey::parse).collect();
    keys.filter(|keys| !keys.is_empty())
        .ok_or_else(|| wrong(&format!("{} does not hold a key: 32 bytes in hex or base64", path.display())))
}

/// Makes the first one; refused where there is a file.
pub fn make(path: &Path) -> Result<()> {
    let failed = |error| Error::internal(format!("cannot write {}", path.display())).source(error);
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(failed)?;
    write_keys(&mut file, &[MasterKey::generate()]).map_err(failed)
}

/// Puts these keys in the place of what is there, durably.
pub fn replace(path: &Path, keys: &[MasterKey]) -> Result<()> {
    let failed = |error: std::io::Error| {
        Error::new(&codes::MASTER_KEY_NOT_WRITABLE)
            .detail(format!("The file of the master key cannot be written: {error}."))
            .because(format!("cannot write {}", path.display()))
    };
    // What the name leads to, so that a link stays one.
    let path = fs::canonicalize(path).map_err(failed)?;
    let mut name = path.clone().into_os_string();
    name.push(".new");
    let new = std::path::PathBuf::from(name);
    let _ = fs::remove_file(&new);
    let written = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new);
    written.and_then(|mut file| write_keys(&mut file, keys)).map_err(failed)?;
    fs::rename(&new, &path).map_err(failed)?;
    path.parent().map_or(Ok(()), sync_directory)
}

/// Whether [`replace`] could put another file in its place: the directory takes one. Nothing is changed.
pub fn check_writable(path: &Path) -> Result<()> {
    let failed = |error: std::io::Error| {
        Error::new(&codes::MASTER_KEY_NOT_WRITABLE)
            .detail(format!("The file of the master key cannot be replaced: {error}."))
            .because(format!("cannot write beside {}", path.display()))
    };
    let path = fs::canonicalize(path).map_err(failed)?;
    let new = path.with_extension("try");
    let _ = fs::remove_file(&new);
    fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new).map_err(failed)?;
    fs::remove_file(&new).map_err(failed)
}

fn write_keys(file: &mut fs::File, keys: &[MasterKey]) -> std::io::Result<()> {
    for (at, key) in keys.iter().enumerate() {
        if at == 0 {
            writeln!(file, "{}", key.to_text().as_str())?;
        } else {
            writeln!(file, "{} # {}, being replaced", key.to_text().as_str(), key.id())?;
        }
    }
    file.sync_all()
}

fn wrong(what: &str) -> Error {
    let mut text = what.to_owned();
    if let Some(first) = text.get_mut(..1) {
        first.make_ascii_uppercase();
    }
    Error::new(&codes::INTERNAL).detail(format!("{text}."))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_holds_one_key_or_several_and_is_replaced_as_a_whole() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("master.key");
        make(&path).unwrap();
        assert!(make(&path).is_err());
        let first = read(&path).unwrap().remove(0);
        let second = MasterKey::generate();
        replace(&path, &[second.clone(), first.clone()]).unwrap();
        let ids: Vec<String> = read(&path).unwrap().iter().map(MasterKey::id).collect();
        assert_eq!(ids, [second.id(), first.id()]);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);

        // A link to it stays a link.
        let link = directory.path().join("link.key");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        replace(&link, std::slice::from_ref(&second)).unwrap();
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(read(&path).unwrap().len(), 1);

        for bad in ["", "# only words\n", "12345\n", &format!("{}\nnot a key\n", second.to_text().as_str())] {
            fs::write(&path, bad).unwrap();
            assert!(read(&path).is_err(), "{bad:?}");
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        assert!(read(&path).is_err());
    }
}
