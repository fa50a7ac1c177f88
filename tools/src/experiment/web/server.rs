//! The web server on the host: the job of the guest's server, in one thread, one request after the other in the order of
//! their connections.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use crate::experiment::load::enter;
use crate::traffic::{Run, Worker};

/// How long the thread waits for the network before it looks whether it is to go on.
const GLANCE: Duration = Duration::from_millis(2);
/// How long a client has to say what it wants.
const PATIENCE: Duration = Duration::from_secs(5);
/// The longest request that is read.
const REQUEST: usize = 8 << 10;

/// Answers every GET at `listener` with what `job` makes, on `cpu`, until it is dropped. Its count is that of answers.
pub fn serve(
    listener: TcpListener,
    cpu: u32,
    job: impl FnMut() -> Vec<u8> + Send + 'static,
) -> io::Result<Worker> {
    listener.set_nonblocking(true)?;
    Worker::start("web server", move |run| {
        if enter(cpu).is_ok() {
            accept(&listener, run, job);
        }
    })
}

fn accept(listener: &TcpListener, run: &Run, mut job: impl FnMut() -> Vec<u8>) {
    while run.goes_on() {
        match listener.accept() {
            // A client that goes away is no reason to end.
            Ok((stream, _)) => {
                if answer(stream, &mut job).is_ok() {
                    run.add(1);
                }
            }
            Err(_) => std::thread::sleep(GLANCE),
        }
    }
}

fn answer(mut stream: TcpStream, job: &mut impl FnMut() -> Vec<u8>) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut request: Vec<u8> = Vec::new();
    let mut buffer = [0; 2048];
    while !request.windows(4).any(|four| four == b"\r\n\r\n") {
        let length = stream.read(&mut buffer)?;
        if length == 0 || request.len() > REQUEST {
            return Err(ErrorKind::InvalidData.into());
        }
        request.extend(&buffer[..length]);
    }
    let body = job();
    let head = format!(
        "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes())?;
    stream.write_all(&body)
}

#[cfg(test)]
mod tests {
    use super::super::client::Job;
    use super::*;
    use sched::cpus;

    fn job(listener: &TcpListener, is_right: fn(&[u8]) -> bool) -> Job {
        Job {
            server: listener.local_addr().unwrap(),
            path: "/".to_owned(),
            is_right,
            clients: 3,
            requests: 4,
        }
    }

    #[test]
    fn every_client_gets_every_answer_and_a_wrong_one_is_noticed() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let right = job(&listener, |body| body == b"right");
        let wrong = job(&listener, |body| body == b"wrong");
        let cpu = cpus::online()[0];
        let server = serve(listener, cpu, || b"right".to_vec()).unwrap();
        assert_eq!(right.run(|| {}).unwrap().len(), 12);
        let error = wrong.run(|| {}).unwrap_err().to_string();
        assert!(error.contains("200 with 5 bytes"), "{error}");
        // A client may end before its answer is counted.
        assert!(server.count() >= 12);
    }
}
