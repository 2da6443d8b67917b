//! The introspection port: a listener that shows pages over HTTP/1.1, to people, scrapers and probes.
//!
//! One thread accepts, and each connection has one for its single request, so a slow client keeps only itself waiting.
//! Invariant: bytes of a request, connections at a time and the time of each are bounded; nothing that comes over it changes
//! anything; while nobody connects, its thread sleeps.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use super::pages::{Page, page};
use super::queue::Queue;
use super::request::{Refusal, head_end, parse};
use crate::engine_link::EngineLink;
use crate::limits::{HTTP_ACCEPT_PAUSE, HTTP_CONNECTIONS, HTTP_DEADLINE, HTTP_HEAD_BYTES, HTTP_LINGER};
use crate::until::Until;

/// What the threads of a port share.
struct Shared {
    engine: &'static EngineLink,
    stop: AtomicBool,
    open: AtomicUsize,
    /// For those whose page has every actor looked at.
    walks: Queue,
    /// Only this machine can reach it.
    is_loopback: bool,
}

/// An open port. It closes when this is dropped.
pub(crate) struct Port {
    address: SocketAddr,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Port {
    /// Listens at `address`; port 0 stands for any that is free.
    pub(crate) fn open(engine: &'static EngineLink, address: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind(address)?;
        let address = listener.local_addr()?;
        let is_loopback = address.ip().is_loopback();
        let shared = Arc::new(Shared {
            engine,
            stop: AtomicBool::new(false),
            open: AtomicUsize::new(0),
            walks: Queue::default(),
            is_loopback,
        });
        let of_thread = Arc::clone(&shared);
        let body = move || accept(&listener, &of_thread);
        let thread = std::thread::Builder::new().name("shard-introspect".to_owned()).spawn(body)?;
        Ok(Self { address, shared, thread: Some(thread) })
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Port {
    fn drop(&mut self) {
        // Pair: `accept` acquires it.
        self.shared.stop.store(true, Ordering::Release);
        let mut address = self.address;
        match address.ip() {
            IpAddr::V4(ip) if ip.is_unspecified() => address.set_ip(Ipv4Addr::LOCALHOST.into()),
            IpAddr::V6(ip) if ip.is_unspecified() => address.set_ip(Ipv6Addr::LOCALHOST.into()),
            _ => {}
        }
        // Wakes the thread that accepts; one that cannot be reached is left to the process's end.
        let woken = TcpStream::connect_timeout(&address, HTTP_DEADLINE).is_ok();
        if let Some(thread) = self.thread.take().filter(|_| woken) {
            // A thread that panicked has said so.
            let _ = thread.join();
        }
    }
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    loop {
        let accepted = listener.accept();
        if shared.stop.load(Ordering::Acquire) {
            return;
        }
        let Ok((stream, _)) = accepted else {
            // Out of descriptors, most likely: not to be asked again at once.
            std::thread::park_timeout(HTTP_ACCEPT_PAUSE);
            continue;
        };
        if shared.open.fetch_add(1, Ordering::Relaxed) >= HTTP_CONNECTIONS {
            shared.open.fetch_sub(1, Ordering::Relaxed);
            refuse(stream);
            continue;
        }
        let seat = Seat(Arc::clone(shared));
        let serve = move || {
            // A client that goes away in the middle is its own affair.
            let _ = serve(stream, &seat.0);
        };
        // Without a thread the seat is free again and the connection closes.
        let _ = std::thread::Builder::new().name("shard-introspect".to_owned()).spawn(serve);
    }
}

/// One connection's place among those that are open.
struct Seat(Arc<Shared>);

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Says that there are too many, without waiting for anything.
fn refuse(mut stream: TcpStream) {
    let page = Refusal::Busy.into();
    let said = stream.set_nonblocking(true).and_then(|()| stream.write_all((head(&page) + &page.body).as_bytes()));
    // Whoever does not hear it sees the end.
    drop(said);
}

/// Reads one request and answers it.
fn serve(mut stream: TcpStream, shared: &Shared) -> io::Result<()> {
    let until = Until::after(HTTP_DEADLINE);
    stream.set_nodelay(true)?;
    let mut bytes = Vec::new();
    let (answer, head_only) = match read_head(&mut stream, &mut bytes, until)? {
        Err(refusal) => (refusal.into(), false),
        Ok(end) => match parse(&bytes[..end]) {
            Ok(request) if shared.is_loopback && !request.host.is_none_or(is_local_name) => {
                (Refusal::Misdirected.into(), request.head_only)
            }
            Ok(request) => (page(shared.engine, &shared.walks, &request), request.head_only),
            Err(refusal) => (refusal.into(), false),
        },
    };
    let until = Until::after(HTTP_DEADLINE);
    write(&mut stream, head(&answer).as_bytes(), until)?;
    if !head_only {
        write(&mut stream, answer.body.as_bytes(), until)?;
    }
    linger(stream)
}

/// Whether a page in a browser that was led here under a name of somebody else's is not behind the request.
fn is_local_name(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    host.eq_ignore_ascii_case("localhost") || bare.parse::<IpAddr>().is_ok()
}

/// Reads until the head is whole; says where it ends.
fn read_head(stream: &mut TcpStream, bytes: &mut Vec<u8>, until: Until) -> io::Result<Result<usize, Refusal>> {
    let mut piece = [0; 1024];
    loop {
        let left = until.left();
        if left.is_zero() {
            return Ok(Err(Refusal::TimedOut));
        }
        stream.set_read_timeout(Some(left))?;
        let count = match stream.read(&mut piece) {
            Ok(0) if bytes.is_empty() => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(0) => return Ok(Err(Refusal::BadRequest)),
            Ok(count) => count,
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => continue,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        bytes.extend_from_slice(&piece[..count]);
        // What lies behind the head is nobody's business.
        match head_end(bytes) {
            Some(end) if end <= HTTP_HEAD_BYTES => return Ok(Ok(end)),
            None if bytes.len() <= HTTP_HEAD_BYTES => {}
            _ => return Ok(Err(Refusal::HeadTooLarge)),
        }
    }
}

fn head(Page { status, content_type, body }: &Page) -> String {
    let allow = if *status == Refusal::MethodNotAllowed.status() { "Allow: GET, HEAD\r\n" } else { "" };
    format!(
        "HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\nContent-Length: {}\r\n{allow}Cache-Control: no-store\r\n\
         X-Content-Type-Options: nosniff\r\nConnection: close\r\n\r\n",
        body.len()
    )
}

/// Writes everything, or fails when the moment has come: also for a client that takes a little now and then.
fn write(stream: &mut TcpStream, mut bytes: &[u8], until: Until) -> io::Result<()> {
    while !bytes.is_empty() {
        let left = until.left();
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        stream.set_write_timeout(Some(left))?;
        match stream.write(bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => bytes = &bytes[count..],
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Lets the client take the answer before the connection closes: bytes of its own that nobody has read would tear it.
fn linger(mut stream: TcpStream) -> io::Result<()> {
    stream.shutdown(Shutdown::Write)?;
    let until = Until::after(HTTP_LINGER);
    let mut piece = [0; 1024];
    let mut left_bytes = 8 * HTTP_HEAD_BYTES;
    while left_bytes > 0 && !until.left().is_zero() {
        stream.set_read_timeout(Some(until.left().max(Duration::from_millis(1))))?;
        match stream.read(&mut piece)? {
            0 => break,
            count => left_bytes = left_bytes.saturating_sub(count),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_that_takes_a_little_now_and_then_is_left_at_the_deadline() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port is free");
        let mut client = TcpStream::connect(listener.local_addr().expect("it listens")).expect("it listens");
        let (mut server, _) = listener.accept().expect("somebody connects");
        let page = vec![7; 64 << 20];
        let all = page.len();
        let taker = std::thread::spawn(move || {
            let (mut taken, mut piece) = (0, vec![0; 64 << 10]);
            while let Ok(count @ 1..) = client.read(&mut piece) {
                taken += count;
                std::thread::park_timeout(Duration::from_millis(10));
            }
            taken
        });
        let written = write(&mut server, &page, Until::after(Duration::from_millis(300)));
        drop(server);
        assert_eq!(written.map_err(|error| error.kind()), Err(io::ErrorKind::TimedOut));
        assert!(taker.join().expect("it only reads") < all);
    }
}
