//! How fast memory goes over loopback: rustls alone, pre-copy over TLS, and what the encodings do by themselves, all in one run.
//!
//! `cargo run --release -p migration --example throughput`

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::{Arc, RwLock};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use migration::page::{Encoder, EncoderSettings};
use migration::precopy::{Precopy, PrecopySettings, StreamReceiver};
use migration::ram::{DirtyLog, GuestRam, PAGE_SIZE, PageNumber, PageSet, RamError};
use migration::transport::authority::{Authority, Validity};
use migration::transport::{Connection, Framed, Identity, Listener, Security, Settings};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, ServerConfig, StreamOwned};
use units::ByteSize;

type Failure = Box<dyn std::error::Error + Send + Sync>;

const MEMORY: usize = 256 << 20;
const ROUNDS: usize = 4;
const REPEATS: usize = 3;

/// Memory that nobody writes to.
struct Ram(RwLock<Vec<u8>>);

impl GuestRam for Ram {
    fn pages(&self) -> u64 {
        (MEMORY / PAGE_SIZE) as u64
    }

    fn read(&self, first: PageNumber, into: &mut [u8]) -> Result<(), RamError> {
        let from = usize::try_from(first.0).unwrap_or(usize::MAX) * PAGE_SIZE;
        let memory = self.0.read().expect("no writer panics");
        into.copy_from_slice(&memory[from..from + into.len()]);
        Ok(())
    }

    fn write(&self, first: PageNumber, from: &[u8]) -> Result<(), RamError> {
        let to = usize::try_from(first.0).unwrap_or(usize::MAX) * PAGE_SIZE;
        let mut memory = self.0.write().expect("no writer panics");
        memory[to..to + from.len()].copy_from_slice(from);
        Ok(())
    }
}

/// A guest that is idle.
struct Idle;

impl DirtyLog for Idle {
    fn start(&mut self) -> Result<(), RamError> {
        Ok(())
    }

    fn look(&mut self) -> Result<PageSet, RamError> {
        Ok(PageSet::empty((MEMORY / PAGE_SIZE) as u64))
    }

    fn clear(&mut self, _: &PageSet) -> Result<(), RamError> {
        Ok(())
    }

    fn stop(&mut self) -> Result<(), RamError> {
        Ok(())
    }
}

/// Bytes of which so many in 64 are random and the rest repeat: content that compresses (xorshift).
fn content(random_of_64: usize) -> Vec<u8> {
    let mut state = 88_172_645_463_325_252_u64;
    let mut bytes = vec![0; MEMORY];
    for (at, word) in bytes.chunks_exact_mut(8).enumerate() {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let kept = if at % 8 < random_of_64 / 8 {
            state
        } else {
            0x0101_0101_0101_0101
        };
        word.copy_from_slice(&kept.to_le_bytes());
    }
    bytes
}

/// Random, with four bits in each byte: half the information, and nothing that repeats.
fn nibbles() -> Vec<u8> {
    let mut bytes = content(64);
    bytes.iter_mut().for_each(|byte| *byte &= 15);
    bytes
}

struct Certificates {
    certificate: String,
    key: String,
    authority: String,
}

fn certificates() -> Result<Certificates, Failure> {
    let valid = Validity::starting(SystemTime::now(), Duration::from_secs(3600));
    let authority = Authority::new("throughput", valid)?;
    let issued = authority.issue(&["127.0.0.1"], valid)?;
    Ok(Certificates {
        certificate: issued.certificate,
        key: issued.key,
        authority: authority.certificate().to_owned(),
    })
}

#[allow(clippy::cast_precision_loss, reason = "a figure to show")]
fn gbits(bytes: usize, time: Duration) -> f64 {
    bytes as f64 * 8e-9 / time.as_secs_f64()
}

/// What whoever uses rustls as its documentation shows gets: `StreamOwned` at both ends, 64 KiB at a time.
fn rustls_alone(own: &Certificates, bytes: &[u8]) -> Result<f64, Failure> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let chain = vec![CertificateDer::from_pem_slice(own.certificate.as_bytes())?];
    let server = ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_no_client_auth()
        .with_single_cert(chain, PrivateKeyDer::from_pem_slice(own.key.as_bytes())?)?;
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(own.authority.as_bytes())?)?;
    let client = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let address = listener.local_addr()?;
    let all = bytes.len() * ROUNDS;
    let receiver = thread::spawn(move || -> Result<(), Failure> {
        let (socket, _) = listener.accept()?;
        let tls = rustls::ServerConnection::new(Arc::new(server))?;
        let mut stream = StreamOwned::new(tls, socket);
        let (mut buffer, mut got) = (vec![0; 64 << 10], 0);
        while got < all {
            got += stream.read(&mut buffer)?;
        }
        stream.write_all(&[1])?;
        Ok(())
    });
    let socket = TcpStream::connect(address)?;
    socket.set_nodelay(true)?;
    let tls = rustls::ClientConnection::new(Arc::new(client), ServerName::try_from("127.0.0.1")?)?;
    let mut stream = StreamOwned::new(tls, socket);
    stream.flush()?;
    let begun = Instant::now();
    for _ in 0..ROUNDS {
        for piece in bytes.chunks(64 << 10) {
            stream.write_all(piece)?;
        }
    }
    stream.read_exact(&mut [0])?;
    let rate = gbits(all, begun.elapsed());
    receiver.join().expect("no panic")?;
    Ok(rate)
}

fn ours(
    security: &Security,
    from: &Arc<dyn GuestRam>,
    streams: u16,
    encoder: EncoderSettings,
) -> Result<f64, Failure> {
    let to: Arc<dyn GuestRam> = Arc::new(Ram(RwLock::new(vec![1; MEMORY])));
    let waits = Settings::default();
    let listener = Listener::bind((Ipv4Addr::LOCALHOST, 0).into(), security.clone(), waits)?;
    let address = listener.address();
    let mut senders = Vec::new();
    let mut receivers = Vec::new();
    let (ended, ends) = std::sync::mpsc::channel();
    for index in 0..streams {
        let calling = {
            let security = security.clone();
            thread::spawn(move || Connection::connect(address, "127.0.0.1", &security, &waits))
        };
        let caller = listener
            .accept(Duration::from_secs(5))?
            .ok_or("nobody called")?;
        let receiver = StreamReceiver::new(Framed::new(caller.greet()?), index, to.clone())?;
        let ended = ended.clone();
        receivers.push(thread::spawn(move || {
            receiver.run(Duration::from_secs(5), &mut |round| {
                let _ = ended.send(round);
            })
        }));
        senders.push(Framed::new(calling.join().expect("no panic")?));
    }
    let mut log = Idle;
    let settings = PrecopySettings {
        encoder,
        ..PrecopySettings::default()
    };
    let mut precopy = Precopy::start(from, &mut log, senders, &settings)?;
    let begun = Instant::now();
    for _ in 0..ROUNDS {
        precopy.round(&[PageSet::full(from.pages())], &mut |_| ())?;
        (0..streams).try_for_each(|_| ends.recv().map(drop))?;
    }
    let rate = gbits(MEMORY * ROUNDS, begun.elapsed());
    precopy.finish()?;
    for receiver in receivers {
        receiver.join().expect("no panic")?;
    }
    Ok(rate)
}

/// Gbit/s of an encoder by itself, and bytes out for each in.
#[allow(clippy::cast_precision_loss, reason = "a figure to show")]
fn encoding(bytes: &[u8], settings: &EncoderSettings) -> Result<(f64, f64), Failure> {
    let mut encoder = Encoder::new(settings, 1)?;
    let (mut out, mut written, mut page) = (Vec::with_capacity(2 << 20), 0, 0);
    // What is remembered is sent twice, with one word changed in between.
    let mut bytes = bytes[..64 << 20].to_vec();
    let twice = settings.remember.bytes() > 0;
    let mut begun = Instant::now();
    for pass in 0..=u8::from(twice) {
        if pass == 1 {
            bytes
                .chunks_exact_mut(PAGE_SIZE)
                .for_each(|page| page[80] ^= 1);
            (begun, written, page) = (Instant::now(), 0, 0);
        }
        for chunk in bytes.chunks(32 * PAGE_SIZE) {
            let mut done = 0;
            while done < chunk.len() {
                out.clear();
                let run = encoder.encode(PageNumber(page), &chunk[done..], &mut out);
                done += run.count as usize * PAGE_SIZE;
                page += u64::from(run.count);
                written += out.len();
            }
        }
    }
    Ok((
        gbits(bytes.len(), begun.elapsed()),
        written as f64 / bytes.len() as f64,
    ))
}

fn median(mut rates: Vec<f64>) -> f64 {
    rates.sort_by(f64::total_cmp);
    rates[rates.len() / 2]
}

fn show_links(own: &Certificates) -> Result<(), Failure> {
    let identity = Identity::from_pem(
        own.certificate.as_bytes(),
        own.key.as_bytes(),
        own.authority.as_bytes(),
    )?;
    let tls = Security::Tls(identity);
    let bytes = content(64);
    let ram: Arc<dyn GuestRam> = Arc::new(Ram(RwLock::new(bytes.clone())));
    let (mut alone, mut one, mut two, mut plain) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for _ in 0..REPEATS {
        alone.push(rustls_alone(own, &bytes)?);
        one.push(ours(&tls, &ram, 1, EncoderSettings::PLAIN)?);
        two.push(ours(&tls, &ram, 2, EncoderSettings::PLAIN)?);
        plain.push(ours(&Security::Plain, &ram, 1, EncoderSettings::PLAIN)?);
    }
    let alone = median(alone);
    println!("rustls alone                 {alone:6.2} Gbit/s");
    for (what, rates) in [
        ("pre-copy, TLS, one stream  ", one),
        ("pre-copy, TLS, two streams ", two),
        ("pre-copy, plain TCP        ", plain),
    ] {
        let rate = median(rates);
        println!(
            "{what}  {rate:6.2} Gbit/s, {:3.0} % of rustls alone",
            rate / alone * 100.0
        );
    }
    Ok(())
}

fn main() -> Result<(), Failure> {
    show_links(&certificates()?)?;
    let compress = EncoderSettings {
        compress: true,
        remember: ByteSize::new(0),
    };
    let remember = EncoderSettings {
        compress: false,
        remember: ByteSize::mebibytes(64),
    };
    for (what, bytes, settings) in [
        (
            "raw, random               ",
            content(64),
            EncoderSettings::PLAIN,
        ),
        (
            "zero                      ",
            vec![0; MEMORY],
            EncoderSettings::PLAIN,
        ),
        ("compressed, random        ", content(64), compress),
        ("compressed, half repeats  ", content(32), compress),
        ("compressed, 4 bits of 8   ", nibbles(), compress),
        ("delta, one word changed   ", content(64), remember),
    ] {
        let (rate, ratio) = encoding(&bytes, &settings)?;
        println!("{what}  {rate:6.2} Gbit/s, {ratio:.4} bytes out for each in");
    }
    Ok(())
}
