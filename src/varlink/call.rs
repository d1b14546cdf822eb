//! One call, as its interface sees it.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::activity::Activity;
use super::connection::Link;
use super::schema::Schema;
use super::socket::Outgoing;
use super::stream::{Channels, Control, Finish};
use super::wire::{MESSAGE_FDS_MAX, MESSAGE_SIZE_MAX, Request};
use super::{BusyGuard, CallError, Peer, UpgradedStream};

/// How far the reply has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Progress {
    /// No final reply yet; `streamed` once a reply with `continues` has left.
    Open {
        /// Whether there has been a reply already.
        streamed: bool,
    },
    /// The final reply has left.
    Replied,
    /// The final reply has left, and the connection is no varlink connection any more.
    Upgraded,
}

/// One decoded call, and the way to answer it.
///
/// A reply is on the socket before the method that sends it returns, so a slow reader slows its own call down and
/// nothing else. Dropping the future of a reply halfway loses nothing: the rest leaves before the next reply.
#[derive(Debug)]
pub struct Call {
    link: Arc<Link>,
    activity: Arc<Activity>,
    /// How many [`BusyGuard`]s of this call are alive.
    guards: Arc<AtomicUsize>,
    request: Request<'static>,
    fds: Vec<Option<OwnedFd>>,
    /// For a call with `upgrade` whose descriptors were asked for.
    channels: Option<Channels>,
    progress: Progress,
    schema: Option<Arc<Schema>>,
    /// The connection goes on even if an upgrade was asked for and did not come.
    keeps_open: bool,
}

impl Call {
    pub(super) fn new(
        link: &Arc<Link>,
        activity: &Arc<Activity>,
        request: Request<'static>,
        fds: Vec<OwnedFd>,
    ) -> Self {
        Self {
            link: Arc::clone(link),
            activity: Arc::clone(activity),
            guards: Arc::new(AtomicUsize::new(0)),
            request,
            fds: fds.into_iter().map(Some).collect(),
            channels: None,
            progress: Progress::Open { streamed: false },
            schema: None,
            keeps_open: false,
        }
    }

    pub(super) fn progress(&self) -> Progress {
        self.progress
    }

    pub(super) fn guards(&self) -> Arc<AtomicUsize> {
        Arc::clone(&self.guards)
    }

    pub(super) fn raw_parameters(&self) -> Option<&Value> {
        self.request.parameters.as_ref()
    }

    /// Puts others in the place of the parameters.
    pub(super) fn set_parameters(&mut self, parameters: Value) {
        self.request.parameters = Some(parameters);
    }

    pub(super) fn keep_open(&mut self) {
        self.keeps_open = true;
    }

    /// Whether the connection goes on after the reply.
    pub(super) fn goes_on(&self) -> bool {
        self.keeps_open || !self.wants_upgrade()
    }

    /// Lets replies be held against the IDL, in debug builds.
    pub(super) fn check_replies(&mut self, schema: &Arc<Schema>) {
        self.schema = Some(Arc::clone(schema));
    }

    /// The interface and the method, `io.dormouse.Container.Start`.
    pub fn full_method(&self) -> &str {
        &self.request.method
    }

    /// The method alone, `Start`.
    pub fn method(&self) -> &str {
        self.request.method.rsplit_once('.').map_or(&*self.request.method, |(_, member)| member)
    }

    /// The interface alone, `io.dormouse.Container`; empty if the client named none.
    pub fn interface(&self) -> &str {
        self.request.method.rsplit_once('.').map_or("", |(interface, _)| interface)
    }

    /// The parameters; a call without any counts as one with an empty object.
    ///
    /// # Errors
    /// [`CallError::InvalidParameter`] with the path of the first that does not fit `T`.
    pub fn parameters<T: DeserializeOwned>(&self) -> Result<T, CallError> {
        let empty = Value::Object(serde_json::Map::new());
        let parameters = self.request.parameters.as_ref().unwrap_or(&empty);
        serde_path_to_error::deserialize(parameters).map_err(|error| {
            let path = error.path().to_string();
            // An error about the whole, as a missing field is, has the path ".".
            CallError::invalid_parameter(if path == "." { "parameters".to_owned() } else { path })
        })
    }

    /// Whether the client asked for a stream of replies; so does who calls with channels for descriptors.
    pub fn wants_more(&self) -> bool {
        (self.request.more == Some(true) || self.channels.is_some()) && !self.is_oneway()
    }

    /// Whether the client wants no reply; replies are accepted, and go nowhere.
    pub fn is_oneway(&self) -> bool {
        self.request.oneway == Some(true)
    }

    /// Whether the client wants the connection for itself after the reply.
    pub fn wants_upgrade(&self) -> bool {
        self.request.upgrade == Some(true) && !self.is_oneway()
    }

    /// Whether the client has channels for descriptors.
    pub fn has_channels(&self) -> bool {
        self.channels.is_some()
    }

    /// Who calls.
    pub fn peer(&self) -> &Peer {
        self.link.peer()
    }

    /// The descriptors that came with the call, in order; empty the second time. What is not taken is closed.
    pub fn take_fds(&mut self) -> Vec<OwnedFd> {
        std::mem::take(&mut self.fds).into_iter().flatten().collect()
    }

    /// The descriptor with this index to read from: one that came along, or for a call with `upgrade` the end of a pipe that
    /// the client fills through a channel. `None` for an index that is out of range or was asked for before.
    ///
    /// # Errors
    /// What `pipe(2)` says.
    pub fn input(&mut self, index: i64) -> io::Result<Option<OwnedFd>> {
        match self.channel(index) {
            Some((channels, Ok(channel))) => channels.open_input(channel),
            Some((_, Err(_))) => Ok(None),
            None => Ok(self.passed(index)),
        }
    }

    /// As [`Call::input`], to write to.
    ///
    /// # Errors
    /// What `pipe(2)` says.
    pub fn output(&mut self, index: i64) -> io::Result<Option<OwnedFd>> {
        match self.channel(index) {
            Some((channels, Ok(channel))) => channels.open_output(channel),
            Some((_, Err(_))) => Ok(None),
            None => Ok(self.passed(index)),
        }
    }

    /// For a call with `upgrade`: connects channels to the master side of a terminal. False for an index that is out of range
    /// or was asked for before.
    ///
    /// # Errors
    /// When no descriptor is free.
    pub fn connect_terminal(
        &mut self,
        input: Option<i64>,
        output: Option<i64>,
        master: OwnedFd,
    ) -> io::Result<bool> {
        let number = |index: Option<i64>| index.map(u8::try_from).transpose();
        let (Ok(input), Ok(output)) = (number(input), number(output)) else { return Ok(false) };
        self.channels.get_or_insert_with(Channels::new).connect_terminal(input, output, master)
    }

    fn channel(&mut self, index: i64) -> Option<(&mut Channels, Result<u8, std::num::TryFromIntError>)> {
        let wanted = self.wants_upgrade();
        wanted.then(|| (self.channels.get_or_insert_with(Channels::new), u8::try_from(index)))
    }

    fn passed(&mut self, index: i64) -> Option<OwnedFd> {
        usize::try_from(index).ok().and_then(|index| self.fds.get_mut(index)).and_then(Option::take)
    }

    /// Sends the reply that makes the connection a stream of frames, where the client has channels for descriptors; does
    /// nothing for any other call, or where it was sent. From here on bytes are carried, and replies are frames.
    ///
    /// # Errors
    /// As [`Call::reply`].
    pub async fn begin_stream(
        &mut self,
        parameters: impl Serialize,
        finish: Finish,
    ) -> Result<(), CallError> {
        let Some(channels) = &mut self.channels else { return Ok(()) };
        if channels.is_running() {
            return Ok(());
        }
        let message = encode(&parameters, None)?;
        self.check(&message);
        let disconnected = |source| CallError::Disconnected { source };
        self.link.send(Outgoing::new(message, Vec::new())).await.map_err(disconnected)?;
        self.progress = Progress::Open { streamed: true };
        self.link.set_upgraded(true);
        match &mut self.channels {
            Some(channels) => channels.begin(&self.link, finish).map_err(disconnected),
            None => Ok(()),
        }
    }

    /// What the client says beside data; waits for ever unless [`Call::begin_stream`] has begun a stream. Cancelled, it loses
    /// nothing.
    pub async fn control(&mut self) -> Control {
        match &mut self.channels {
            Some(channels) => channels.control().await,
            None => std::future::pending().await,
        }
    }

    /// A guard for work that must be finished even if the client leaves or the service is told to stop.
    pub fn busy(&self) -> BusyGuard {
        BusyGuard::new(&self.activity, &self.guards)
    }

    /// Sends the final reply.
    ///
    /// # Errors
    /// [`CallError::Disconnected`]; [`CallError::Encode`] and [`CallError::TooLarge`] for what is no message.
    pub async fn reply(&mut self, parameters: impl Serialize) -> Result<(), CallError> {
        self.send(parameters, None, Vec::new()).await
    }

    /// Sends a final reply that has no parameters at all, not even an empty object: what the clients of some older
    /// interfaces were used to.
    ///
    /// # Errors
    /// As [`Call::reply`].
    pub async fn reply_nothing(&mut self) -> Result<(), CallError> {
        self.send_parts(None::<()>, None, Vec::new()).await
    }

    /// Sends the final reply with descriptors (at most 253), which are closed here once they are sent.
    ///
    /// # Errors
    /// As [`Call::reply`].
    pub async fn reply_with_fds(
        &mut self,
        parameters: impl Serialize,
        fds: Vec<OwnedFd>,
    ) -> Result<(), CallError> {
        self.send(parameters, None, fds).await
    }

    /// Sends a reply that others follow; returns when it is on the socket, which may take as long as the client
    /// does not read.
    ///
    /// # Errors
    /// As [`Call::reply`]; [`CallError::ExpectedMore`] if the client did not ask for a stream.
    pub async fn reply_continues(&mut self, parameters: impl Serialize) -> Result<(), CallError> {
        self.reply_continues_with_fds(parameters, Vec::new()).await
    }

    /// As [`Call::reply_continues`], with descriptors (at most 253).
    ///
    /// # Errors
    /// As [`Call::reply_continues`].
    pub async fn reply_continues_with_fds(
        &mut self,
        parameters: impl Serialize,
        fds: Vec<OwnedFd>,
    ) -> Result<(), CallError> {
        if !self.wants_more() {
            return Err(CallError::ExpectedMore);
        }
        self.send(parameters, Some(true), fds).await
    }

    /// Sends the final reply and hands the connection over as a stream of bytes, beginning with the first byte
    /// after the call. The call goes on until the future of the interface ends, and the connection with it.
    ///
    /// Once upgraded, a client that leaves no longer cancels the call: what it sent before is still to be read.
    ///
    /// # Errors
    /// As [`Call::reply`]; [`CallError::InvalidParameter`] for `upgrade` if the client did not ask for it.
    pub async fn upgrade(&mut self, parameters: impl Serialize) -> Result<UpgradedStream, CallError> {
        self.upgrade_with(Some(parameters)).await
    }

    /// As [`Call::upgrade`], with a reply as that of [`Call::reply_nothing`].
    ///
    /// # Errors
    /// As [`Call::upgrade`].
    pub async fn upgrade_with_nothing(&mut self) -> Result<UpgradedStream, CallError> {
        self.upgrade_with(None::<()>).await
    }

    async fn upgrade_with(
        &mut self,
        parameters: Option<impl Serialize>,
    ) -> Result<UpgradedStream, CallError> {
        if !self.wants_upgrade() {
            return Err(CallError::invalid_parameter("upgrade"));
        }
        self.send_parts(parameters, None, Vec::new()).await?;
        self.progress = Progress::Upgraded;
        self.link.set_upgraded(true);
        Ok(UpgradedStream::new(Arc::clone(&self.link)))
    }

    /// Makes the connection one of varlink again, for the clients of an older interface, which go on with calls after their
    /// bytes. The stream must not be used any more.
    pub fn end_upgrade(&mut self, stream: UpgradedStream) {
        drop(stream);
        self.progress = Progress::Replied;
        self.link.set_upgraded(false);
    }

    async fn send(
        &mut self,
        parameters: impl Serialize,
        continues: Option<bool>,
        fds: Vec<OwnedFd>,
    ) -> Result<(), CallError> {
        self.send_parts(Some(parameters), continues, fds).await
    }

    async fn send_parts(
        &mut self,
        parameters: Option<impl Serialize>,
        continues: Option<bool>,
        fds: Vec<OwnedFd>,
    ) -> Result<(), CallError> {
        let Progress::Open { .. } = self.progress else {
            unreachable!("{} sends a second final reply", self.full_method());
        };
        if let Some(parameters) = &parameters {
            self.begin_stream(parameters, Finish::AtEnd).await?;
        }
        let message = encode_reply(&Reply { continues, error: None, parameters: parameters.as_ref() })?;
        drop(parameters);
        if fds.len() > MESSAGE_FDS_MAX {
            return Err(CallError::TooManyDescriptors { count: fds.len() });
        }
        self.check(&message);
        if let Some(channels) = &mut self.channels {
            let last = continues != Some(true);
            let sent = channels.reply(&message, last).await;
            if last {
                self.progress = Progress::Upgraded;
            }
            return sent.map_err(|source| CallError::Disconnected { source });
        }
        self.progress =
            if continues == Some(true) { Progress::Open { streamed: true } } else { Progress::Replied };
        if self.is_oneway() {
            return Ok(());
        }
        self.link.send(Outgoing::new(message, fds)).await.map_err(|source| CallError::Disconnected { source })
    }

    /// A reply of ours that does not fit the IDL is a mistake; debug builds say so.
    fn check(&self, message: &[u8]) {
        if cfg!(debug_assertions)
            && let Some(schema) = &self.schema
        {
            schema.assert_reply(self.method(), message);
        }
    }

    /// Sends an error as the final reply.
    pub(super) async fn reply_error(&mut self, name: &str, parameters: Value) -> Result<(), CallError> {
        let streamed = self.channels.as_ref().is_some_and(Channels::is_running);
        self.progress = if streamed { Progress::Upgraded } else { Progress::Replied };
        if self.is_oneway() {
            return Ok(());
        }
        let reply = Reply { continues: None, error: Some(name), parameters: Some(&parameters) };
        let message = encode_reply(&reply)?;
        if let Some(channels) = self.channels.as_mut().filter(|channels| channels.is_running()) {
            channels.take_what_is_there();
            let sent = channels.reply(&message, true).await;
            return sent.map_err(|source| CallError::Disconnected { source });
        }
        self.link
            .send(Outgoing::new(message, Vec::new()))
            .await
            .map_err(|source| CallError::Disconnected { source })
    }
}

/// [`super::wire::WireReply`] for writing: it borrows, and keeps the order of a struct's fields.
#[derive(Serialize)]
struct Reply<'a, P> {
    #[serde(skip_serializing_if = "Option::is_none")]
    continues: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    parameters: Option<&'a P>,
}

fn encode(parameters: &impl Serialize, continues: Option<bool>) -> Result<Vec<u8>, CallError> {
    encode_reply(&Reply { continues, error: None, parameters: Some(parameters) })
}

fn encode_reply(reply: &impl Serialize) -> Result<Vec<u8>, CallError> {
    let mut message =
        serde_json::to_vec(reply).map_err(|source| CallError::Encode { source: Some(source) })?;
    if message.len() > MESSAGE_SIZE_MAX {
        return Err(CallError::TooLarge { size: message.len() });
    }
    message.push(0);
    Ok(message)
}
