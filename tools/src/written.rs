//! Files that users write: read whole, up to a size that nobody writes.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use crate::failure::Failure;

/// The longest file that is read. A device or a wrong file may never end.
const MOST_BYTES: u64 = 4 << 20;

/// What `parse` makes of a file's text; errors name the file.
pub fn read<T>(path: &Path, parse: impl FnOnce(&str) -> Result<T, Failure>) -> Result<T, Failure> {
    text(path)
        .and_then(|text| parse(&text))
        .map_err(|failure| failure.while_doing(&path.display().to_string()))
}

fn text(path: &Path) -> Result<String, Failure> {
    let mut bytes = Vec::new();
    let file = File::open(path)?;
    if file.metadata()?.is_dir() {
        return Err(Failure::new("this is a folder: give a file"));
    }
    file.take(MOST_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MOST_BYTES {
        let most = MOST_BYTES >> 20;
        return Err(Failure::new(format!(
            "this has more than {most} MiB: give a text file in TOML"
        )));
    }
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        Failure::new(format!("byte {at} is no UTF-8: give a text file in TOML"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_text_of_a_usual_length_is_refused_with_its_name_and_what_would_work() {
        let of = |path: &Path| read(path, |text| Ok(text.to_owned()));
        let endless = of(Path::new("/dev/zero")).unwrap_err().to_string();
        assert_eq!(
            endless,
            "/dev/zero: this has more than 4 MiB: give a text file in TOML"
        );
        let dir = tempfile::tempdir().unwrap();
        let folder = of(dir.path()).unwrap_err().to_string();
        assert!(
            folder.ends_with("this is a folder: give a file"),
            "{folder}"
        );
        let path = dir.path().join("binary");
        std::fs::write(&path, b"a = \xff").unwrap();
        let binary = of(&path).unwrap_err().to_string();
        assert!(
            binary.ends_with("byte 4 is no UTF-8: give a text file in TOML"),
            "{binary}"
        );
        std::fs::write(&path, "a = 1").unwrap();
        assert_eq!(of(&path).unwrap(), "a = 1");
    }
}
