//! A running control plane, asked by its operators' API for what a node gets.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context as _, bail};
use api::ResourceType;
use model::node::Transport;
use reqwest::{Client, RequestBuilder, StatusCode, Url};
use resources::Key;
use serde_json::{Value, json};

use super::world::{World, Written};
use crate::config::RenderArgs;

/// To write down 20,000 services takes a control plane a while.
const TIMEOUT: Duration = Duration::from_secs(60);

pub(crate) struct Live {
    client: Client,
    url: Url,
    token: String,
}

impl Live {
    pub(crate) fn new(render: &RenderArgs) -> anyhow::Result<Self> {
        let url = Url::parse(&render.url).with_context(|| format!("--url: got {:?}", render.url))?;
        let client = Client::builder().timeout(TIMEOUT).build()?;
        Ok(Self { client, url, token: render.token.clone() })
    }

    /// What templates see there: services without their keys, and what sources may show.
    pub(crate) async fn context(&self) -> anyhow::Result<Written> {
        let url = self.url.join("api/context")?;
        Ok(serde_json::from_value(self.send(self.client.get(url)).await?)?)
    }

    /// What the node gets, by version.
    pub(crate) async fn versions(&self, world: &World) -> anyhow::Result<BTreeMap<Key, String>> {
        let transport = match world.transport {
            Transport::Stream => "stream",
            Transport::Rest => "rest",
        };
        let body = json!({"node": world.node, "transport": transport});
        let answer = self.send(self.client.post(self.url.join("api/select")?).json(&body)).await?;
        let resources = answer["resources"].as_array().context("an answer without resources")?;
        let version = |resource: &Value| {
            let kind = ResourceType::from_label(resource["kind"].as_str()?)?;
            let key = Key { kind, name: resource["name"].as_str()?.into() };
            Some((key, resource["version"].as_str()?.to_owned()))
        };
        resources.iter().map(|resource| version(resource).context("a resource without a version")).collect()
    }

    /// One of them, in words.
    pub(crate) async fn yaml(&self, key: &Key, version: &str) -> anyhow::Result<String> {
        let mut url = self.url.join("api/resources")?;
        if let Ok(mut path) = url.path_segments_mut() {
            path.push(key.kind.label()).push(&key.name);
        }
        let answer = self.send(self.client.get(url).query(&[("version", version)])).await?;
        Ok(answer["yaml"].as_str().unwrap_or_default().to_owned())
    }

    async fn send(&self, request: RequestBuilder) -> anyhow::Result<Value> {
        let response = request.bearer_auth(&self.token).send().await;
        let response = response.with_context(|| format!("--diff: no control plane at {}", self.url))?;
        let status = response.status();
        let body: Value = response.json().await.with_context(|| format!("--diff: {status}"))?;
        if status != StatusCode::OK {
            bail!("--diff: {status}: {}", body["description"].as_str().unwrap_or_default());
        }
        Ok(body)
    }
}
