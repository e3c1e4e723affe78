//! What two processes say to each other, and the two sockets that one gives to the other.
//!
//! Frames over a Unix stream: their length in four bytes, little-endian, one byte that tells their kind, and what they hold. It blocks: it
//! is for threads of its own.

use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use parking_lot::Mutex;
use rustix::cmsg_space;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    recvmsg, sendmsg,
};
use serde::{Deserialize, Serialize};

use super::other_process::OtherProcess;
use crate::gateway::retries::News;
use crate::gateway::retries::snapshot::Kept;
use crate::gateway::successor::{RelayedReply, RelayedRequest};

/// The version of what is said. Two processes that say different things do not take over from each other.
pub(super) const VERSION: u16 = 1;

/// What is said in this version: 0.1 says revision 0, and does not say so. Each process says only what the other one's revision knows.
pub(super) const REVISION: u16 = 2;

/// The most that a frame may hold, in bytes: far more than any answer.
const MAX_FRAME: usize = 16 << 20;

/// How many bytes of records go at a time while there are many.
const BULK: usize = 64 << 10;

/// The clients' listener and the operators'.
const SOCKETS: usize = 2;

/// What is said.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Message {
    /// The old process: who it is. The sockets come with it.
    Hello(Hello),
    /// The new one: it can take over. Tell it everything.
    Ready,
    /// The old one: an answer that waits for a retry.
    Kept(Kept),
    /// The old one: a phone is exempt until then. Its digits, and microseconds since the epoch.
    Exempt(u64, u64),
    /// The old one: that was everything. The folder of the state is free.
    Complete,
    /// The new one: it knows everything and can serve, and does nothing yet.
    Serving,
    /// The old one: it judges no more. The new one is to.
    Left,
    /// The old one: nothing comes of it, and it goes on.
    Stays,
    /// The new one: it does not take over, and why.
    Refused(String),
    /// The old one: serve this request.
    Ask(u64, RelayedRequest),
    /// The old one: whoever asked this has gone.
    Gone(u64),
    /// The new one: the answer.
    Told(u64, RelayedReply),
    /// The old one: an answer that waits for a retry, and the hash of the key that an SDK made up for it. (0.1 says neither this nor
    /// what follows.)
    KeptUnder(u128, Kept),
    /// The new one: as `Ready`, from one that knows this revision, to one that does.
    ReadyIn(u16),
    /// The new one, to one of revision 1 or more: it has read `Left`, and judges.
    Judges,
    /// The old one, to one of revision 2 or more: of an exchange in flight there.
    News(News),
}

/// Who the old process is.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Hello {
    pub(super) version: u16,
    /// Its process id.
    pub(super) process: u32,
    /// Where its sockets listen.
    pub(super) listen: SocketAddr,
    pub(super) admin: SocketAddr,
    /// The key under which it hashes ids and accounts, if that was drawn: whoever takes over has to go on with it.
    pub(super) drawn_key: Option<[u8; 16]>,
    /// Whether two keys are the same.
    pub(super) key_check: [u8; 16],
    /// The folder of its state.
    pub(super) state: Option<PathBuf>,
    /// The revision that it knows. It follows the rest of its message, where 0.1 does not look.
    #[serde(skip)]
    pub(super) revision: u16,
}

/// What comes.
#[derive(Debug)]
pub(super) enum Received {
    Message(Box<Message>),
    /// Records, one after the other.
    Records(Vec<u8>),
}

mod kind {
    pub(super) const MESSAGE: u8 = 1;
    pub(super) const RECORDS: u8 = 2;
}

/// One end of the line between two processes. Any thread may say something; one listens.
#[derive(Debug)]
pub(super) struct Line {
    stream: UnixStream,
    /// Records that wait for more of them. Whoever says anything holds it.
    records: Mutex<Vec<u8>>,
}

impl Line {
    pub(super) const fn new(stream: UnixStream) -> Self {
        Self { stream, records: Mutex::new(Vec::new()) }
    }

    /// How long the other end may take for the next thing that it says, or takes to hear.
    pub(super) fn set_patience(&self, patience: Duration) -> io::Result<()> {
        self.stream.set_read_timeout(Some(patience))?;
        self.stream.set_write_timeout(Some(patience))
    }

    /// From now on it may be silent for as long as it likes.
    pub(super) fn may_be_silent(&self) -> io::Result<()> {
        self.stream.set_read_timeout(None)
    }

    /// The process at the other end.
    pub(super) fn other_process(&self) -> io::Result<OtherProcess> {
        OtherProcess::of(&self.stream)
    }

    /// What it is said over.
    pub(super) const fn stream(&self) -> &UnixStream {
        &self.stream
    }

    /// Says something, after all that was said before.
    pub(super) fn say(&self, message: &Message) -> io::Result<()> {
        let mut records = self.records.lock();
        self.flush(&mut records)?;
        let mut said = postcard::to_allocvec(message).map_err(io::Error::other)?;
        if let Message::Hello(hello) = message {
            said.extend_from_slice(&hello.revision.to_le_bytes());
        }
        self.write(kind::MESSAGE, &said)
    }

    /// Tells a record: at once, or with others.
    pub(super) fn tell(&self, record: &[u8], is_alone: bool) -> io::Result<()> {
        let mut records = self.records.lock();
        records.extend_from_slice(record);
        if is_alone || records.len() >= BULK { self.flush(&mut records) } else { Ok(()) }
    }

    fn flush(&self, records: &mut Vec<u8>) -> io::Result<()> {
        if records.is_empty() {
            return Ok(());
        }
        let written = self.write(kind::RECORDS, records);
        records.clear();
        written
    }

    fn write(&self, kind: u8, contents: &[u8]) -> io::Result<()> {
        let length = u32::try_from(contents.len()).map_err(io::Error::other)?;
        let [a, b, c, d] = length.to_le_bytes();
        (&self.stream).write_all(&[&[a, b, c, d, kind], contents].concat())
    }

    /// Waits for what the other end says next. None: it has ended.
    pub(super) fn hear(&self) -> io::Result<Option<Received>> {
        let mut head = [0; 5];
        match (&self.stream).read_exact(&mut head) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            Err(error) => return Err(error),
        }
        let [a, b, c, d, kind] = head;
        let length = u32::from_le_bytes([a, b, c, d]) as usize;
        if length > MAX_FRAME {
            return Err(io::Error::other("a frame is too large"));
        }
        let mut contents = vec![0; length];
        (&self.stream).read_exact(&mut contents)?;
        match kind {
            kind::RECORDS => Ok(Some(Received::Records(contents))),
            kind::MESSAGE => {
                let (mut message, rest) = postcard::take_from_bytes(&contents).map_err(io::Error::other)?;
                if let (Message::Hello(hello), [a, b, ..]) = (&mut message, rest) {
                    hello.revision = u16::from_le_bytes([*a, *b]);
                }
                Ok(Some(Received::Message(Box::new(message))))
            }
            _ => Err(io::Error::other("a frame of an unknown kind")),
        }
    }

    /// Gives the sockets to the other end.
    pub(super) fn give(&self, sockets: [BorrowedFd<'_>; SOCKETS]) -> io::Result<()> {
        let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(SOCKETS))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        ancillary.push(SendAncillaryMessage::ScmRights(&sockets));
        sendmsg(&self.stream, &[IoSlice::new(&[0])], &mut ancillary, SendFlags::empty())?;
        Ok(())
    }

    /// Takes the sockets that the other end gives.
    pub(super) fn take(&self) -> io::Result<[OwnedFd; SOCKETS]> {
        let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(SOCKETS))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let mut byte = [0];
        recvmsg(self.stream.as_fd(), &mut [IoSliceMut::new(&mut byte)], &mut ancillary, RecvFlags::CMSG_CLOEXEC)?;
        let mut sockets = Vec::new();
        for message in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(fds) = message {
                sockets.extend(fds);
            }
        }
        sockets.try_into().map_err(|_| io::Error::other("the sockets did not come"))
    }
}
