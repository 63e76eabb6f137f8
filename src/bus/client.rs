//! The calling side: a thin client of the Manager, in the model's terms.

use std::future::poll_fn;
use std::pin::Pin;

use serde::Serialize;
use zbus::export::futures_core::Stream;
use zbus::proxy::MethodFlags;
use zbus::wire::{DynamicDeserialize, DynamicType, OwnedObjectPath};
use zbus::{Connection, Proxy};

use super::error::from_call;
use super::wire::Dict;
use super::{BusAddress, MANAGER, NAME, PATH};
use crate::model::{Error, Map, Result};

/// A connection to the daemon.
#[derive(Debug, Clone)]
pub struct Client {
    proxy: Proxy<'static>,
}

impl Client {
    /// Connects to a bus. The daemon need not be there yet: the first call starts it where the bus can.
    pub async fn connect(address: &BusAddress) -> Result<Self> {
        let connection = address.builder().build().await.map_err(|e| address.unreachable(&e))?;
        Self::on(&connection).await
    }

    /// A client on a connection that is there.
    pub async fn on(connection: &Connection) -> Result<Self> {
        let proxy = zbus::proxy::Builder::<Proxy<'static>>::new(connection)
            .destination(NAME)
            .path(PATH)
            .interface(MANAGER)
            .cache_properties(zbus::proxy::CacheProperties::No)
            .build()
            .await
            .map_err(from_call)?;
        Ok(Self { proxy })
    }

    /// The connection to the bus.
    pub fn connection(&self) -> &Connection {
        self.proxy.connection()
    }

    /// Calls a method of the Manager.
    pub async fn call<B, R>(&self, method: &str, arguments: &B) -> Result<R>
    where
        B: Serialize + DynamicType,
        R: for<'d> DynamicDeserialize<'d>,
    {
        self.proxy
            .call_with_flags(method.to_owned(), MethodFlags::ALLOW_INTERACTIVE_AUTH, arguments)
            .await
            .map_err(from_call)?
            .ok_or_else(|| Error::failed("the daemon did not answer"))
    }

    /// Calls a method that answers with an object.
    pub async fn object<B: Serialize + DynamicType>(&self, method: &str, arguments: &B) -> Result<Map> {
        self.call::<_, Dict>(method, arguments).await?.read()
    }

    /// Calls a method that answers with some objects.
    pub async fn objects<B: Serialize + DynamicType>(&self, method: &str, arguments: &B) -> Result<Vec<Map>> {
        self.call::<_, Vec<Dict>>(method, arguments).await?.into_iter().map(Dict::read).collect()
    }

    /// Calls a method that lists: how many there are, and one page of them.
    pub async fn list(&self, method: &str, options: &Map) -> Result<(u64, Vec<Map>)> {
        self.list_of(method, &Dict::write(options)?).await
    }

    /// Calls a method that lists and takes more than options.
    pub async fn list_of<B: Serialize + DynamicType>(&self, method: &str, arguments: &B) -> Result<(u64, Vec<Map>)> {
        let (count, page): (u64, Vec<Dict>) = self.call(method, arguments).await?;
        Ok((count, page.into_iter().map(Dict::read).collect::<Result<_>>()?))
    }

    /// Calls a method that starts a job, and answers with the job's id.
    pub async fn job<B: Serialize + DynamicType>(&self, method: &str, arguments: &B) -> Result<u64> {
        let path: OwnedObjectPath = self.call(method, arguments).await?;
        job_id(path.as_str())
    }

    /// A property of the Manager.
    pub async fn text(&self, property: &str) -> Result<String> {
        self.proxy.get_property(property).await.map_err(from_call)
    }

    /// The signals of one name, from now on.
    pub async fn signals(&self, name: &'static str) -> Result<Signals> {
        let rule = zbus::MatchRule::builder()
            .msg_type(zbus::message::Type::Signal)
            .sender(NAME)
            .path(PATH)
            .interface(MANAGER)
            .member(name)
            .build()
            .map_err(from_call)?;
        zbus::MessageStream::for_match_rule(rule, self.connection(), None).await.map(Signals).map_err(from_call)
    }
}

/// Signals as they arrive.
#[derive(Debug)]
pub struct Signals(zbus::MessageStream);

impl Signals {
    /// The next one; waits for ever when the bus has gone.
    pub async fn next(&mut self) -> zbus::Message {
        loop {
            match poll_fn(|context| Pin::new(&mut self.0).poll_next(context)).await {
                Some(Ok(message)) => return message,
                Some(Err(_)) => {}
                None => std::future::pending().await,
            }
        }
    }
}

/// The id in a job's path.
pub fn job_id(path: &str) -> Result<u64> {
    path.rsplit_once('/')
        .and_then(|(_, id)| id.parse().ok())
        .ok_or_else(|| Error::failed(format!("the daemon answered with {path:?}, which is no job")))
}
