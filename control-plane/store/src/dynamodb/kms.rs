//! The keys of what the store keeps secret, wrapped by a key of KMS, which never leaves it. The wrapped ones are rows of
//! the table: one that is added is known to every process as soon as it meets something sealed with it.

use aws::{Action, Error, Item, Key, Page, SdkConfig, Table};
use aws_sdk_kms::{Client, primitives::Blob, types::DataKeySpec};
use base64::{Engine as _, prelude::BASE64_STANDARD};

use super::rows::place;
use crate::Keys;

const KEYS: &str = "keys";
/// What the wrapped keys are bound to (KMS "encryption context"): it stands in every entry of the trail.
const CONTEXT: (&str, &str) = ("gatehouse", "store");

/// A key of KMS, and the table with those that it wraps.
#[derive(Debug, Clone)]
pub struct KmsKeys {
    client: Client,
    key: String,
    table: Table,
}

impl KmsKeys {
    /// Wraps with the key of this id, alias or ARN.
    pub fn new(config: &SdkConfig, key: &str, table: Table) -> Self {
        Self { client: Client::new(config), key: key.to_owned(), table }
    }

    /// All keys, the newest first; a first one is made, where there is none.
    pub(super) async fn read(&self) -> Result<Keys, Error> {
        let mut rows = self.table.read(Page::all(KEYS)).await?;
        if rows.is_empty() {
            self.add().await?;
            rows = self.table.read(Page::all(KEYS)).await?;
        }
        let mut lines = Vec::with_capacity(rows.len());
        for row in rows.iter().rev() {
            let wrapped = BASE64_STANDARD.decode(row.get_text("wrapped")?);
            let wrapped = wrapped.map_err(|_| Error::told("a wrapped key that is not base64"))?;
            let decrypt = self.client.decrypt().key_id(&self.key).encryption_context(CONTEXT.0, CONTEXT.1);
            let plain = decrypt.ciphertext_blob(Blob::new(wrapped)).send().await;
            let plain = plain.map_err(|error| Error::of(&error))?.plaintext.unwrap_or_else(|| Blob::new([]));
            let id = row.get_text("sk")?.trim_start_matches('0');
            lines.push(format!("{id} {}", BASE64_STANDARD.encode(plain)));
        }
        Keys::parse(&lines.join("\n")).map_err(|error| Error::told(error.to_string()))
    }

    /// Makes a new key, which seals from now on.
    pub(super) async fn add(&self) -> Result<(), Error> {
        let last = self.table.read(Page::all(KEYS)).await?.len();
        let make = self.client.generate_data_key_without_plaintext().key_id(&self.key);
        let made = make.key_spec(DataKeySpec::Aes256).encryption_context(CONTEXT.0, CONTEXT.1).send().await;
        let wrapped = made.map_err(|error| Error::of(&error))?.ciphertext_blob;
        let wrapped = wrapped.ok_or_else(|| Error::told("KMS made a key and did not give it"))?;
        let at = Key::new(KEYS, place(u64::try_from(last).unwrap_or(u64::MAX).saturating_add(1)));
        let row = Item::at(&at).text("wrapped", BASE64_STANDARD.encode(wrapped));
        // Refused: another process made it just now, and that one is as good.
        self.table.write(vec![Action::put(row).only_new()]).await.map(drop)
    }
}
