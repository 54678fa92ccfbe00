//! A program that calls the API.

use serde_json::Value;

use super::{Answer, Call, HOST, World};

#[derive(Clone)]
pub struct Api<'w> {
    world: &'w World,
    key: Option<String>,
    host: String,
    headers: Vec<(String, String)>,
}

impl<'w> Api<'w> {
    pub(super) fn new(world: &'w World, key: Option<String>) -> Self {
        Self { world, key, host: HOST.to_owned(), headers: Vec::new() }
    }

    /// The same program, calling at another address.
    pub fn at(mut self, host: &str) -> Self {
        host.clone_into(&mut self.host);
        self
    }

    pub fn with_header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.send("GET", path, None).await
    }

    pub async fn post(&self, path: &str, body: &Value) -> Answer {
        self.send("POST", path, Some(body)).await
    }

    pub async fn put(&self, path: &str, body: &Value) -> Answer {
        self.send("PUT", path, Some(body)).await
    }

    pub async fn patch(&self, path: &str, body: &Value) -> Answer {
        self.send("PATCH", path, Some(body)).await
    }

    pub async fn delete(&self, path: &str) -> Answer {
        self.send("DELETE", path, None).await
    }

    pub async fn send(&self, method: &str, path: &str, body: Option<&Value>) -> Answer {
        let call = self.call(method, path);
        self.world.call(if let Some(body) = body { call.json(body) } else { call }).await
    }

    /// The request as it would be sent, to be changed first.
    pub fn call(&self, method: &str, path: &str) -> Call {
        let mut call = Call::new(method, &self.host, path);
        if let Some(key) = &self.key {
            call = call.header("authorization", &format!("Bearer {key}"));
        }
        call.headers.extend(self.headers.iter().cloned());
        call
    }
}
