//! Rank 0's connections to the others: who belongs to the run, what they tell each other, and that one has failed.

use super::DistError;
use super::Result;
use super::rendezvous::Rendezvous;
use message::Failure;
use message::Kind;
use message::receive;
use message::send;
use message::tell;
use serde::Deserialize;
use serde::Serialize;
use serde::de::DeserializeOwned;
use socket2::SockRef;
use socket2::TcpKeepalive;
use std::io::Error;
use std::io::ErrorKind;
use std::net::Ipv4Addr;
use std::net::Ipv6Addr;
use std::net::SocketAddr;
use std::net::TcpListener;
use std::net::TcpStream;
use std::time::Duration;
use std::time::Instant;

mod message;
#[cfg(any(feature = "nccl", test))]
mod work;

/// Between two attempts to connect, and between two looks at who has come.
const PAUSE: Duration = Duration::from_millis(50);
/// How long a new connection may take to say who it is.
const GREETING: Duration = Duration::from_secs(10);
/// A machine that answers nothing for about a minute and a half is gone.
const IDLE: Duration = Duration::from_secs(30);
/// Longest message before a rank is known.
const MAX_HELLO: u64 = 4096;
/// Longest message: a rank's answers of a step, or a layer's gradient.
const MAX_MESSAGE: u64 = 1 << 34;
const MAGIC: &str = "videothinker ranks 1";

/// Who a new connection is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Hello {
    magic: String,
    version: String,
    job: String,
    rank: usize,
    size: usize,
}

/// The connections of one rank: of rank 0 those to all others in their order, of others that to rank 0.
#[derive(Debug)]
pub(super) struct Link {
    rank: usize,
    peers: Vec<TcpStream>,
}

impl Link {
    /// Waits until all ranks are connected.
    pub(super) fn open(rendezvous: &Rendezvous, patience: Duration) -> Result<Self> {
        if rendezvous.rank > 0 {
            return Self::reach(rendezvous, patience);
        }
        // Both kinds of addresses where the machine has both, else the old kind.
        let everywhere = [
            SocketAddr::from((Ipv6Addr::UNSPECIFIED, rendezvous.port)),
            SocketAddr::from((Ipv4Addr::UNSPECIFIED, rendezvous.port)),
        ];
        let listener =
            TcpListener::bind(&everywhere[..]).map_err(|error| address(rendezvous, error))?;
        Self::gather(rendezvous, &listener, patience, || Ok(()))
    }

    /// Rank 0: takes in the others; `watch` is asked again and again whether one has failed meanwhile.
    pub(super) fn gather(
        rendezvous: &Rendezvous,
        listener: &TcpListener,
        patience: Duration,
        mut watch: impl FnMut() -> Result<()>,
    ) -> Result<Self> {
        let failed = |error| address(rendezvous, error);
        listener.set_nonblocking(true).map_err(failed)?;
        let mut peers: Vec<Option<TcpStream>> = (1..rendezvous.size).map(|_| None).collect();
        let start = Instant::now();
        while peers.iter().any(Option::is_none) {
            match listener.accept() {
                Ok((stream, _)) => {
                    if let Some((rank, stream)) = admit(rendezvous, stream, &peers)? {
                        peers[rank - 1] = Some(stream);
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    watch()?;
                    std::thread::sleep(PAUSE);
                }
                Err(error) => return Err(failed(error)),
            }
            if start.elapsed() > patience {
                let missing = |(index, peer): (usize, &Option<TcpStream>)| {
                    peer.is_none().then_some(index + 1)
                };
                return Err(DistError::Missing {
                    missing: peers.iter().enumerate().filter_map(missing).collect(),
                    address: rendezvous.address(),
                    seconds: patience.as_secs(),
                });
            }
        }
        let link = Self {
            rank: 0,
            peers: peers.into_iter().flatten().collect(),
        };
        // Everybody begins when the last one is there.
        link.all_gather(&())?;
        Ok(link)
    }

    /// Other ranks: finds rank 0.
    fn reach(rendezvous: &Rendezvous, patience: Duration) -> Result<Self> {
        let failed = |error| address(rendezvous, error);
        let start = Instant::now();
        let stream = loop {
            match TcpStream::connect((rendezvous.host.as_str(), rendezvous.port)) {
                Ok(stream) => break stream,
                Err(_) if start.elapsed() < patience => std::thread::sleep(PAUSE),
                Err(error) => return Err(failed(error)),
            }
        };
        prepare(&stream).map_err(failed)?;
        let hello = postcard::to_stdvec(&Hello::of(rendezvous))?;
        send(&stream, Kind::Value, &hello).map_err(failed)?;
        let link = Self {
            rank: rendezvous.rank,
            peers: vec![stream],
        };
        link.all_gather(&())?;
        Ok(link)
    }

    /// Every rank's value.
    pub(super) fn all_gather<T: Serialize + DeserializeOwned>(&self, value: &T) -> Result<Vec<T>> {
        let own = postcard::to_stdvec(value)?;
        if self.rank > 0 {
            self.send(0, &own)?;
            return Ok(postcard::from_bytes(&self.receive(0)?)?);
        }
        let mut all = vec![own];
        for rank in 1..=self.peers.len() {
            all.push(self.receive(rank)?);
        }
        let values = all
            .iter()
            .map(|bytes| Ok(postcard::from_bytes(bytes)?))
            .collect::<Result<Vec<T>>>()?;
        let all = postcard::to_stdvec(&values)?;
        for rank in 1..=self.peers.len() {
            self.send(rank, &all)?;
        }
        Ok(values)
    }

    /// Ranks this one is connected to.
    pub(super) fn peers(&self) -> std::ops::RangeInclusive<usize> {
        if self.rank == 0 {
            1..=self.peers.len()
        } else {
            0..=0
        }
    }

    pub(super) fn is_first(&self) -> bool {
        self.rank == 0
    }

    /// Sends to `rank`.
    pub(super) fn send(&self, rank: usize, bytes: &[u8]) -> Result<()> {
        match send(self.stream(rank), Kind::Value, bytes) {
            Ok(()) => Ok(()),
            // It may have said why before it went.
            Err(error) => Err(match self.receive(rank) {
                Err(left @ DistError::Left { .. }) => left,
                _ => vanished(rank, &error),
            }),
        }
    }

    /// What `rank` sends next.
    pub(super) fn receive(&self, rank: usize) -> Result<Vec<u8>> {
        match receive(self.stream(rank), MAX_MESSAGE) {
            Ok((Kind::Value, bytes)) => Ok(bytes),
            Ok((Kind::Failed, bytes)) => {
                let Failure { rank, reason } = postcard::from_bytes(&bytes)?;
                Err(DistError::Left { rank, reason })
            }
            Err(error) => Err(vanished(rank, &error)),
        }
    }

    /// A rank that is gone or says that it has failed, without waiting for anything.
    #[cfg(any(feature = "nccl", test))]
    pub(super) fn lost(&self) -> Option<DistError> {
        self.peers().find_map(|rank| {
            let mut kind = [std::mem::MaybeUninit::new(0)];
            let flags = libc::MSG_PEEK | libc::MSG_DONTWAIT;
            let stream = SockRef::from(self.stream(rank));
            let waits = matches!(
                stream.recv_with_flags(&mut kind, flags),
                Err(error) if error.kind() == ErrorKind::WouldBlock
            );
            // What waits may be a value: then the rank is there, and ahead.
            (!waits).then(|| self.peeked(rank)).flatten()
        })
    }

    #[cfg(any(feature = "nccl", test))]
    fn peeked(&self, rank: usize) -> Option<DistError> {
        let mut kind = [0];
        match self.stream(rank).peek(&mut kind) {
            Ok(1) if kind[0] == Kind::Value as u8 => None,
            _ => self.receive(rank).err(),
        }
    }

    /// Says to all that `rank` has failed.
    pub(super) fn fail(&self, rank: usize, reason: &str) {
        tell(&self.peers, rank, reason);
    }

    fn stream(&self, rank: usize) -> &TcpStream {
        &self.peers[rank.saturating_sub(1)]
    }
}

impl Hello {
    fn of(rendezvous: &Rendezvous) -> Self {
        Self {
            magic: MAGIC.to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            job: rendezvous.job.clone(),
            rank: rendezvous.rank,
            size: rendezvous.size,
        }
    }
}

/// The rank of a new connection, or nothing where it is none of this run's. A rank of this run that cannot take part
/// ends it.
fn admit(
    rendezvous: &Rendezvous,
    stream: TcpStream,
    peers: &[Option<TcpStream>],
) -> Result<Option<(usize, TcpStream)>> {
    let greet = || -> std::io::Result<Vec<u8>> {
        stream.set_nonblocking(false)?;
        prepare(&stream)?;
        stream.set_read_timeout(Some(GREETING))?;
        let (_, bytes) = receive(&stream, MAX_HELLO)?;
        stream.set_read_timeout(None)?;
        Ok(bytes)
    };
    let own = Hello::of(rendezvous);
    let hello: Hello = match greet().map(|bytes| postcard::from_bytes(&bytes)) {
        Ok(Ok(hello)) => hello,
        _ => return Ok(None),
    };
    if hello.magic != own.magic || hello.job != own.job {
        tracing::warn!("a process of another run came to {}", rendezvous.address());
        tell([&stream], 0, "it belongs to another run");
        return Ok(None);
    }
    let rank = hello.rank;
    let reason = if hello.version != own.version {
        format!("it is videothinker {}, not {}", hello.version, own.version)
    } else if hello.size != own.size {
        format!("it counts {} ranks, not {}", hello.size, own.size)
    } else {
        match peers.get(rank.wrapping_sub(1)) {
            Some(None) => return Ok(Some((rank, stream))),
            _ => "there is one of that number already".to_owned(),
        }
    };
    tell(peers.iter().flatten().chain([&stream]), rank, &reason);
    Err(DistError::Stranger { rank, reason })
}

/// No waiting for more to send, and a peer whose machine is gone is noticed.
fn prepare(stream: &TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let keepalive = TcpKeepalive::new()
        .with_time(IDLE)
        .with_interval(Duration::from_secs(10));
    SockRef::from(stream).set_tcp_keepalive(&keepalive)
}

fn address(rendezvous: &Rendezvous, source: Error) -> DistError {
    DistError::Address {
        rank: rendezvous.rank,
        address: rendezvous.address(),
        source,
    }
}

fn vanished(rank: usize, error: &Error) -> DistError {
    let reason = match error.kind() {
        ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => {
            "it ended without a word: killed, out of memory, or its machine went down".to_owned()
        }
        _ => error.to_string(),
    };
    DistError::Left { rank, reason }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::thread::JoinHandle;

    pub(super) const SOON: Duration = Duration::from_secs(20);

    fn rendezvous(rank: usize, size: usize, port: u16) -> Rendezvous {
        Rendezvous {
            rank,
            size,
            local_rank: rank,
            port,
            job: "job".to_owned(),
            ..Rendezvous::alone()
        }
    }

    /// Runs `act` on `size` ranks; rank 0's result and the others'.
    pub(super) fn ranks<T: Send + 'static>(
        size: usize,
        act: impl Fn(Link) -> T + Clone + Send + 'static,
    ) -> Vec<T> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let others: Vec<JoinHandle<T>> = (1..size)
            .map(|rank| {
                let act = act.clone();
                std::thread::spawn(move || {
                    act(Link::open(&rendezvous(rank, size, port), SOON).unwrap())
                })
            })
            .collect();
        let first = Link::gather(&rendezvous(0, size, port), &listener, SOON, || Ok(())).unwrap();
        let mut all = vec![act(first)];
        all.extend(others.into_iter().map(|other| other.join().unwrap()));
        all
    }

    #[test]
    fn all_see_all_values_in_order() {
        let seen = ranks(3, |link| {
            let first: Vec<(usize, f64)> = link.all_gather(&(link.rank, f64::NAN)).unwrap();
            let second = link.all_gather(&"x".repeat(link.rank * 100_000)).unwrap();
            (first, second)
        });
        for (first, second) in seen {
            let numbers: Vec<usize> = first.iter().map(|(rank, _)| *rank).collect();
            assert_eq!(numbers, [0, 1, 2]);
            assert!(first.iter().all(|(_, value)| value.is_nan()));
            let lengths: Vec<usize> = second.iter().map(String::len).collect();
            assert_eq!(lengths, [0, 100_000, 200_000]);
        }
    }

    #[test]
    fn a_failure_is_told_to_all_with_its_reason() {
        let seen = ranks(3, |link| {
            if link.rank == 2 {
                link.fail(2, "the disk is full");
                return "told".to_owned();
            }
            let error = link.all_gather(&1).unwrap_err();
            // Rank 0 passes it on, as a run does.
            if let (0, DistError::Left { rank, reason }) = (link.rank, &error) {
                link.fail(*rank, reason);
            }
            error.to_string()
        });
        for message in &seen[..2] {
            assert_eq!(message, "rank 2 failed: the disk is full");
        }
    }

    #[test]
    fn a_rank_that_vanishes_is_noticed() {
        let seen = ranks(2, |link| {
            if link.rank == 1 {
                return String::new();
            }
            let start = Instant::now();
            let lost = loop {
                match link.lost() {
                    Some(lost) => break lost,
                    None => std::thread::sleep(PAUSE),
                }
                assert!(start.elapsed() < SOON);
            };
            let error = link.all_gather(&1).unwrap_err();
            assert_eq!(lost.to_string(), error.to_string());
            error.to_string()
        });
        assert!(seen[0].starts_with("rank 1 failed: it ended without a word"));
    }

    #[test]
    fn a_rank_that_is_ahead_is_not_lost() {
        let seen = ranks(2, |link| {
            if link.rank == 0 {
                std::thread::sleep(PAUSE * 4);
                assert!(link.lost().is_none());
            }
            link.all_gather(&link.rank).unwrap()
        });
        assert_eq!(seen, [[0, 1], [0, 1]]);
    }

    #[test]
    fn strangers_are_left_outside() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let noise = std::thread::spawn(move || {
            let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
            stream.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
            let mut other = rendezvous(1, 2, port);
            other.job = "another".to_owned();
            let refused = Link::open(&other, SOON).unwrap_err().to_string();
            let link = Link::open(&rendezvous(1, 2, port), SOON).unwrap();
            link.all_gather(&1).unwrap();
            refused
        });
        let link = Link::gather(&rendezvous(0, 2, port), &listener, SOON, || Ok(())).unwrap();
        assert_eq!(link.all_gather(&0).unwrap(), [0, 1]);
        assert!(noise.join().unwrap().contains("another run"));
    }

    #[test]
    fn a_rank_too_many_ends_the_run() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let three = std::thread::spawn(move || {
            Link::open(&rendezvous(1, 3, port), SOON)
                .unwrap_err()
                .to_string()
        });
        let two = rendezvous(0, 2, port);
        let error = Link::gather(&two, &listener, SOON, || Ok(())).unwrap_err();
        let want = "it counts 3 ranks, not 2";
        assert!(error.to_string().contains(want), "{error}");
        assert!(three.join().unwrap().contains(want));
    }

    #[test]
    fn those_who_do_not_come_are_named() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let patience = Duration::from_millis(200);
        let error =
            Link::gather(&rendezvous(0, 3, port), &listener, patience, || Ok(())).unwrap_err();
        assert!(
            error.to_string().contains("ranks [1, 2] have not come"),
            "{error}"
        );
    }
}
