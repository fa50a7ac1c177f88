//! `certificates`: an authority of one's own, and what it issues.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use migration::transport::authority::{Authority, Validity};
use serde::Serialize;
use vmm::moving::{AUTHORITY, CERTIFICATE, KEY};

use super::Context;
use crate::failure::Failure;

/// How long an authority is trusted: ten years.
const AUTHORITY_LIFE: Duration = Duration::from_secs(3650 * 24 * 3600);
/// How long a host's certificate is.
const HOST_LIFE: Duration = Duration::from_secs(365 * 24 * 3600);
/// What an authority is called.
const AUTHORITY_NAME: &str = "chronovisor hosts";
/// The authority's own key.
const AUTHORITY_KEY: &str = "authority.key";

#[derive(Serialize)]
struct Made {
    authority: PathBuf,
    hosts: Vec<PathBuf>,
}

/// Makes certificates for `hosts` in folders of `dir`.
pub fn certificates(context: &Context, dir: &Path, hosts: &[String]) -> Result<u8, Failure> {
    folder(dir)?;
    let authority = authority(dir)?;
    let made = hosts.iter().map(|host| issue(&authority, dir, host));
    let made = Made {
        authority: dir.join(AUTHORITY),
        hosts: made.collect::<Result<_, _>>()?,
    };
    context.print(&made, |made| {
        let hosts = made
            .hosts
            .iter()
            .map(|host| format!("{}\n", host.display()));
        hosts.collect()
    })?;
    Ok(0)
}

fn in_file(path: &Path) -> impl Fn(std::io::Error) -> Failure {
    move |error| Failure::from(error).while_doing(&path.display().to_string())
}

fn folder(path: &Path) -> Result<(), Failure> {
    match DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => Err(in_file(path)(error)),
        _ => Ok(()),
    }
}

/// That of the folder, or a new one.
fn authority(dir: &Path) -> Result<Authority, Failure> {
    let (certificate, key) = (dir.join(AUTHORITY), dir.join(AUTHORITY_KEY));
    match (fs::read_to_string(&certificate), fs::read_to_string(&key)) {
        (Ok(certificate), Ok(key)) => Ok(Authority::again(AUTHORITY_NAME, &certificate, &key)?),
        (Err(error), Err(_)) if error.kind() == ErrorKind::NotFound => {
            let valid = Validity::starting(SystemTime::now(), AUTHORITY_LIFE);
            let made = Authority::new(AUTHORITY_NAME, valid)?;
            write(&key, &made.key())?;
            write(&certificate, made.certificate())?;
            Ok(made)
        }
        (Err(error), _) => Err(in_file(&certificate)(error)),
        (_, Err(error)) => Err(in_file(&key)(error)
            .with_hint("without its key an authority issues nothing; name another folder")),
    }
}

fn issue(authority: &Authority, dir: &Path, host: &str) -> Result<PathBuf, Failure> {
    // It becomes a folder's name.
    if host.is_empty() || host.starts_with('.') || host.contains('/') {
        let what = format!("{host:?} is no host: write a name or an address");
        return Err(Failure::new(what));
    }
    let valid = Validity::starting(SystemTime::now(), HOST_LIFE);
    let issued = authority
        .issue(&[host], valid)
        .map_err(|error| Failure::from(error).while_doing(host))?;
    let own = dir.join(host);
    folder(&own)?;
    write(&own.join(KEY), &issued.key)?;
    write(&own.join(CERTIFICATE), &issued.certificate)?;
    write(&own.join(AUTHORITY), authority.certificate())?;
    Ok(own)
}

/// For its owner alone; what was there is renewed.
fn write(path: &Path, text: &str) -> Result<(), Failure> {
    let beside = path.with_extension("new");
    // Left by a try that was broken off.
    let _ = fs::remove_file(&beside);
    let file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&beside);
    file.and_then(|mut file| file.write_all(text.as_bytes()))
        .and_then(|()| fs::rename(&beside, path))
        .map_err(in_file(path))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn hosts_get_certificates_of_one_authority_now_and_later_and_nobody_else_reads_them() {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().join("pki");
        let context = Context {
            run_dir: folder.path().to_owned(),
            json: true,
        };
        let make = |host: &str| certificates(&context, &dir, &[host.to_owned()]);
        make("10.0.0.1").unwrap();
        make("b.example").unwrap();
        let read = |path: &str| fs::read_to_string(dir.join(path)).unwrap();
        assert_eq!(
            read("10.0.0.1/authority.pem"),
            read("b.example/authority.pem")
        );
        assert_ne!(read("10.0.0.1/key.pem"), read("b.example/key.pem"));
        for host in ["10.0.0.1", "b.example"] {
            vmm::moving::security(Some(&dir.join(host))).unwrap();
            for file in fs::read_dir(dir.join(host)).unwrap() {
                let mode = file.unwrap().metadata().unwrap().permissions().mode();
                assert_eq!(mode & 0o777, 0o600);
            }
        }
        assert!(make("../up").is_err());
        fs::remove_file(dir.join(AUTHORITY_KEY)).unwrap();
        let error = make("c").unwrap_err().to_string();
        assert!(error.contains("without its key"), "{error}");
    }
}
