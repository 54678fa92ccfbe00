//! A person's browser: keeps cookies by host, sends forms with what is hidden in them, follows where it is sent.

use std::collections::BTreeMap;

use super::page::{PostedForm, forms};
use super::{Answer, Call, World};

#[derive(Clone)]
pub struct Browser<'w> {
    world: &'w World,
    /// Where relative addresses lead.
    pub host: String,
    /// By host and name.
    cookies: BTreeMap<(String, String), String>,
    pub user_agent: String,
}

impl<'w> Browser<'w> {
    pub(super) fn new(world: &'w World, host: &str) -> Self {
        let user_agent = "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0".to_owned();
        Self { world, host: host.to_owned(), cookies: BTreeMap::new(), user_agent }
    }

    /// Opens a page; a whole address changes the host.
    pub async fn get(&mut self, address: &str) -> Answer {
        let call = self.call("GET", address);
        self.send(call).await
    }

    /// Sends a form as it is, without looking at a page first.
    pub async fn post(&mut self, address: &str, fields: &[(&str, &str)]) -> Answer {
        let call = self.call("POST", address).form(fields);
        self.send(call).await
    }

    /// Fills in the first form of a page and sends it.
    pub async fn submit_form(&mut self, page: &Answer, fields: &[(&str, &str)]) -> Answer {
        self.submit_form_to(page, "", fields).await
    }

    /// Fills in the form whose address ends like this.
    pub async fn submit_form_to(&mut self, page: &Answer, action: &str, fields: &[(&str, &str)]) -> Answer {
        let form = form_of(page, action);
        let hidden = form.hidden.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        let all: Vec<_> = hidden.filter(|(name, _)| !fields.iter().any(|(typed, _)| typed == name)).collect();
        self.post(&form.action, &[&all, fields].concat()).await
    }

    /// Goes where an answer leads.
    pub async fn follow(&mut self, answer: &Answer) -> Answer {
        assert_eq!(answer.status, 303, "{answer:?}");
        self.get(answer.location()).await
    }

    /// The token for forms that a page of this browser has.
    pub async fn csrf(&mut self) -> String {
        let page = self.get("/recovery").await.expect(200);
        hidden(&page, "csrf")
    }

    pub async fn sign_in(&mut self, email: &str, password: &str) -> Answer {
        let page = self.get("/sign-in").await.expect(200);
        self.submit_form(&page, &[("email", email), ("password", password)]).await
    }

    /// The names and values that would be sent to the current host.
    pub fn cookies(&self) -> Vec<(String, String)> {
        let here = self.cookies.iter().filter(|((host, _), _)| *host == self.host);
        here.map(|((_, name), value)| (name.clone(), value.clone())).collect()
    }

    /// The name and value of the first cookie whose name begins like this.
    pub fn cookie(&self, prefix: &str) -> Option<(String, String)> {
        self.cookies().into_iter().find(|(name, _)| name.starts_with(prefix))
    }

    pub fn session(&self) -> Option<String> {
        self.cookie("bh_session_").map(|(_, value)| value)
    }

    pub fn set_cookie(&mut self, name: &str, value: &str) {
        self.cookies.insert((self.host.clone(), name.to_owned()), value.to_owned());
    }

    /// The request as it would be sent, to be changed first.
    pub fn call(&mut self, method: &str, address: &str) -> Call {
        let path = match address.strip_prefix("http://") {
            Some(rest) => {
                let at = rest.find(['/', '?']).unwrap_or(rest.len());
                rest[..at].clone_into(&mut self.host);
                if rest[at..].starts_with('/') { rest[at..].to_owned() } else { format!("/{}", &rest[at..]) }
            }
            None => address.to_owned(),
        };
        let mut call = Call::new(method, &self.host, &path).header("user-agent", &self.user_agent);
        let cookies: Vec<String> = self.cookies().iter().map(|(name, value)| format!("{name}={value}")).collect();
        if !cookies.is_empty() {
            call = call.header("cookie", &cookies.join("; "));
        }
        call
    }

    /// Sends a request and keeps the cookies of its answer.
    pub async fn send(&mut self, call: Call) -> Answer {
        let answer = self.world.call(call).await;
        for cookie in answer.cookies() {
            let (pair, attributes) = cookie.split_once(';').unwrap_or((&cookie, ""));
            let (name, value) = pair.split_once('=').unwrap();
            let key = (self.host.clone(), name.to_owned());
            if attributes.contains("Max-Age=0") {
                self.cookies.remove(&key);
            } else {
                self.cookies.insert(key, value.to_owned());
            }
        }
        answer
    }
}

#[track_caller]
fn form_of(page: &Answer, action: &str) -> PostedForm {
    let found = forms(&page.text()).into_iter().find(|form| form.action.ends_with(action));
    found.unwrap_or_else(|| panic!("no form that posts to ..{action}: {page:?}"))
}

/// A hidden value of the first form that has it.
#[track_caller]
fn hidden(page: &Answer, name: &str) -> String {
    let all = forms(&page.text()).into_iter().flat_map(|form| form.hidden);
    let found = all.into_iter().find(|(known, _)| known == name);
    found.unwrap_or_else(|| panic!("no hidden {name}: {page:?}")).1
}
