//! How ranks write to each other: a message is its kind (one byte), its length (eight bytes, little endian) and its content.

use serde::Deserialize;
use serde::Serialize;
use std::io::Error;
use std::io::ErrorKind;
use std::io::Read;
use std::io::Write;
use std::net::TcpStream;

/// What a message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Kind {
    /// What was asked for.
    Value = 1,
    /// The sender ends; the content is a [`Failure`].
    Failed = 2,
}

/// Who has failed, and why.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Failure {
    pub(super) rank: usize,
    pub(super) reason: String,
}

/// Says to `peers` that `rank` has failed. Who cannot be told will notice.
pub(super) fn tell<'a>(peers: impl IntoIterator<Item = &'a TcpStream>, rank: usize, reason: &str) {
    let reason = reason.to_owned();
    if let Ok(bytes) = postcard::to_stdvec(&Failure { rank, reason }) {
        for peer in peers {
            let _ = send(peer, Kind::Failed, &bytes);
        }
    }
}

pub(super) fn send(mut stream: &TcpStream, kind: Kind, bytes: &[u8]) -> std::io::Result<()> {
    let mut head = [0; 9];
    head[0] = kind as u8;
    head[1..].copy_from_slice(&(bytes.len() as u64).to_le_bytes());
    stream.write_all(&head)?;
    stream.write_all(bytes)
}

/// The next message; one longer than `longest` is an error.
pub(super) fn receive(mut stream: &TcpStream, longest: u64) -> std::io::Result<(Kind, Vec<u8>)> {
    let mut head = [0; 9];
    stream.read_exact(&mut head)?;
    let kind = match head[0] {
        1 => Kind::Value,
        2 => Kind::Failed,
        other => {
            let problem = format!("{other} is no kind of message");
            return Err(Error::new(ErrorKind::InvalidData, problem));
        }
    };
    let mut length = [0; 8];
    length.copy_from_slice(&head[1..]);
    let length = u64::from_le_bytes(length);
    if length > longest {
        let problem = format!("a message of {length} bytes");
        return Err(Error::new(ErrorKind::InvalidData, problem));
    }
    let mut bytes = Vec::new();
    stream.take(length).read_to_end(&mut bytes)?;
    if bytes.len() as u64 == length {
        Ok((kind, bytes))
    } else {
        Err(ErrorKind::UnexpectedEof.into())
    }
}
