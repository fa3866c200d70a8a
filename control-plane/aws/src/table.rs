//! One DynamoDB table with the keys `pk` and `sk`: strongly consistent reads, and writes that happen together or not at
//! all.

use std::{
    collections::HashMap,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use aws_config::SdkConfig;
use aws_sdk_dynamodb::{
    Client,
    operation::transact_write_items::TransactWriteItemsError,
    types::{AttributeValue, Delete, KeysAndAttributes, Put, ReturnValue, TransactWriteItem, Update},
};
use runtime::jitter::jittered;

use crate::Error;

/// A row.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Item(HashMap<String, AttributeValue>);

/// Where a row is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Key {
    /// Rows of one partition are read in order.
    pub pk: String,
    /// Their place in it.
    pub sk: String,
}

/// Which end of a partition comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// The smallest `sk`.
    Ascending,
    /// The largest.
    Descending,
}

/// A part of a partition.
#[derive(Debug, Clone)]
pub struct Page<'a> {
    /// The partition.
    pub pk: &'a str,
    /// Rows from this place on, the place itself included.
    pub from: Option<&'a str>,
    /// Rows up to this place, the place itself included.
    pub to: Option<&'a str>,
    /// Which come first.
    pub order: Order,
    /// At most so many; all, when it is not said.
    pub most: Option<usize>,
}

/// One write of a transaction.
#[derive(Debug, Clone)]
pub struct Action {
    kind: Kind,
    condition: Option<String>,
    names: HashMap<String, String>,
    values: HashMap<String, AttributeValue>,
}

#[derive(Debug, Clone)]
enum Kind {
    Put(Item),
    Update(Key, String),
    Delete(Key),
}

/// Which actions' conditions did not hold, by their place in the list. Nothing was written.
pub type Refused = Vec<usize>;

/// A table.
#[derive(Debug, Clone)]
pub struct Table {
    client: Client,
    name: String,
}

/// DynamoDB's bound for one BatchGetItem.
const BATCH: usize = 100;
/// Two transactions that touch the same row at once: one of them is asked to come again.
const TRIES: u32 = 12;
const FIRST_PAUSE: Duration = Duration::from_millis(10);

/// A string.
pub fn text(value: impl Into<String>) -> AttributeValue {
    AttributeValue::S(value.into())
}

fn number(value: impl Into<i128>) -> AttributeValue {
    AttributeValue::N(value.into().to_string())
}

impl Key {
    /// A key.
    pub fn new(pk: impl Into<String>, sk: impl Into<String>) -> Self {
        Self { pk: pk.into(), sk: sk.into() }
    }

    fn attributes(&self) -> HashMap<String, AttributeValue> {
        HashMap::from([("pk".into(), text(&self.pk)), ("sk".into(), text(&self.sk))])
    }
}

impl Item {
    /// A row with nothing but its key.
    pub fn at(key: &Key) -> Self {
        Self(key.attributes())
    }

    /// With a string.
    #[must_use]
    pub fn text(mut self, name: &str, value: impl Into<String>) -> Self {
        self.0.insert(name.into(), text(value));
        self
    }

    /// With a number.
    #[must_use]
    pub fn number(mut self, name: &str, value: impl Into<i128>) -> Self {
        self.0.insert(name.into(), number(value));
        self
    }

    /// A string of it.
    ///
    /// # Errors
    /// There is none of this name.
    pub fn get_text(&self, name: &str) -> Result<&str, Error> {
        let value = self.0.get(name).and_then(|value| value.as_s().ok());
        value.map(String::as_str).ok_or_else(|| Error::told(format!("a row without the text {name:?}")))
    }

    /// A number of it; nothing, when it has none of this name.
    ///
    /// # Errors
    /// It is not a number of this kind.
    pub fn get_number<T: std::str::FromStr>(&self, name: &str) -> Result<Option<T>, Error> {
        let wrong = || Error::told(format!("a row whose {name:?} is not such a number"));
        let Some(value) = self.0.get(name) else { return Ok(None) };
        value.as_n().map_err(|_| wrong())?.parse().map(Some).map_err(|_| wrong())
    }

    fn key(&self) -> Option<Key> {
        Some(Key::new(self.get_text("pk").ok()?, self.get_text("sk").ok()?))
    }
}

impl<'a> Page<'a> {
    /// A whole partition in ascending order.
    pub fn all(pk: &'a str) -> Self {
        Self { pk, from: None, to: None, order: Order::Ascending, most: None }
    }
}

impl Action {
    fn new(kind: Kind) -> Self {
        Self { kind, condition: None, names: HashMap::new(), values: HashMap::new() }
    }

    /// Writes the whole row.
    pub fn put(item: Item) -> Self {
        Self::new(Kind::Put(item))
    }

    /// Changes a row by an update expression; makes it, where it is not there.
    pub fn update(key: Key, expression: &str) -> Self {
        Self::new(Kind::Update(key, expression.into()))
    }

    /// Deletes a row, if it is there.
    pub fn delete(key: Key) -> Self {
        Self::new(Kind::Delete(key))
    }

    /// Only if this holds for the row. Its attributes are written `#name`, values `:name`.
    #[must_use]
    pub fn only_if(mut self, condition: impl Into<String>) -> Self {
        self.condition = Some(condition.into());
        self
    }

    /// Only if there is no such row.
    #[must_use]
    pub fn only_new(self) -> Self {
        self.only_if("attribute_not_exists(pk)")
    }

    /// What `:name` in its expressions stands for.
    #[must_use]
    pub fn with_text(mut self, name: &str, value: impl Into<String>) -> Self {
        self.values.insert(format!(":{name}"), text(value));
        self
    }

    /// What `:name` in its expressions stands for.
    #[must_use]
    pub fn with_number(mut self, name: &str, value: impl Into<i128>) -> Self {
        self.values.insert(format!(":{name}"), number(value));
        self
    }

    /// `#name` in every expression: words such as `position` are DynamoDB's own.
    fn named(mut self) -> Self {
        let update = if let Kind::Update(_, expression) = &self.kind { expression.as_str() } else { "" };
        let whole = format!("{update} {}", self.condition.as_deref().unwrap_or_default());
        for word in whole.split('#').skip(1) {
            let end = word.find(|one: char| !one.is_ascii_alphanumeric() && one != '_').unwrap_or(word.len());
            let name = &word[..end];
            self.names.insert(format!("#{name}"), name.to_owned());
        }
        self
    }

    fn written(self, table: &str) -> Result<TransactWriteItem, Error> {
        let Self { kind, condition, names, values } = self.named();
        let (names, values) = ((!names.is_empty()).then_some(names), (!values.is_empty()).then_some(values));
        let wrong = |error| Error::of(&error);
        let item = TransactWriteItem::builder();
        Ok(match kind {
            Kind::Put(row) => item.put(
                Put::builder()
                    .table_name(table)
                    .set_item(Some(row.0))
                    .set_condition_expression(condition)
                    .set_expression_attribute_names(names)
                    .set_expression_attribute_values(values)
                    .build()
                    .map_err(wrong)?,
            ),
            Kind::Update(key, expression) => item.update(
                Update::builder()
                    .table_name(table)
                    .set_key(Some(key.attributes()))
                    .update_expression(expression)
                    .set_condition_expression(condition)
                    .set_expression_attribute_names(names)
                    .set_expression_attribute_values(values)
                    .build()
                    .map_err(wrong)?,
            ),
            Kind::Delete(key) => item.delete(
                Delete::builder()
                    .table_name(table)
                    .set_key(Some(key.attributes()))
                    .set_condition_expression(condition)
                    .set_expression_attribute_names(names)
                    .set_expression_attribute_values(values)
                    .build()
                    .map_err(wrong)?,
            ),
        }
        .build())
    }
}

/// Why a transaction was cancelled, as far as it is news to the caller.
enum Cancelled {
    Refused(Refused),
    /// Another one was faster at the same rows, or the table is asked for too much: again.
    Busy,
}

fn cancelled(error: &TransactWriteItemsError) -> Option<Cancelled> {
    let TransactWriteItemsError::TransactionCanceledException(cancelled) = error else {
        let busy = matches!(error, TransactWriteItemsError::TransactionInProgressException(_));
        return busy.then_some(Cancelled::Busy);
    };
    let codes: Vec<_> = cancelled
        .cancellation_reasons()
        .iter()
        .map(|reason| reason.code().unwrap_or_default().to_owned())
        .collect();
    let refused: Refused = (0..codes.len()).filter(|at| codes[*at] == "ConditionalCheckFailed").collect();
    if !refused.is_empty() {
        return Some(Cancelled::Refused(refused));
    }
    let passing = ["TransactionConflict", "ThrottlingError", "ProvisionedThroughputExceeded"];
    codes.iter().any(|code| passing.contains(&code.as_str())).then_some(Cancelled::Busy)
}

impl Table {
    /// A table that is there; nothing is asked of it yet.
    pub fn new(config: &SdkConfig, name: &str) -> Self {
        Self { client: Client::new(config), name: name.to_owned() }
    }

    /// One row.
    pub async fn get(&self, key: &Key) -> Result<Option<Item>, Error> {
        let get = self.client.get_item().table_name(&self.name).set_key(Some(key.attributes()));
        let found = get.consistent_read(true).send().await.map_err(|error| Error::of(&error))?;
        Ok(found.item.map(Item))
    }

    /// Those of the rows that are there, in no order.
    pub async fn get_all(&self, keys: &[Key]) -> Result<HashMap<Key, Item>, Error> {
        let mut found = HashMap::with_capacity(keys.len());
        for keys in keys.chunks(BATCH) {
            let mut asked: Vec<_> = keys.iter().map(Key::attributes).collect();
            let mut tries = 0;
            while !asked.is_empty() {
                tries += 1;
                if tries > TRIES {
                    return Err(Error::told(format!("the table {} leaves rows unread", self.name)));
                }
                let wanted = KeysAndAttributes::builder().set_keys(Some(asked)).consistent_read(true).build();
                let wanted = wanted.map_err(|error| Error::of(&error))?;
                let get = self.client.batch_get_item().request_items(&self.name, wanted);
                let answer = get.send().await.map_err(|error| Error::of(&error))?;
                let rows = answer.responses.unwrap_or_default().remove(&self.name).unwrap_or_default();
                found.extend(rows.into_iter().map(Item).filter_map(|item| Some((item.key()?, item))));
                let left = answer.unprocessed_keys.unwrap_or_default().remove(&self.name);
                asked = left.map(|left| left.keys).unwrap_or_default();
                if !asked.is_empty() {
                    pause(tries).await;
                }
            }
        }
        Ok(found)
    }

    /// Rows of a partition, in order.
    pub async fn read(&self, page: Page<'_>) -> Result<Vec<Item>, Error> {
        // DynamoDB refuses bounds that hold nothing.
        if let (Some(from), Some(to)) = (page.from, page.to)
            && from > to
        {
            return Ok(Vec::new());
        }
        let mut condition = "pk = :pk".to_owned();
        let mut values = HashMap::from([(":pk".to_owned(), text(page.pk))]);
        match (page.from, page.to) {
            (None, None) => {}
            (Some(from), None) => {
                condition += " AND sk >= :from";
                values.insert(":from".into(), text(from));
            }
            (None, Some(to)) => {
                condition += " AND sk <= :to";
                values.insert(":to".into(), text(to));
            }
            (Some(from), Some(to)) => {
                condition += " AND sk BETWEEN :from AND :to";
                values.extend([(":from".into(), text(from)), (":to".into(), text(to))]);
            }
        }
        let most = page.most.unwrap_or(usize::MAX);
        let (mut rows, mut next) = (Vec::new(), None);
        loop {
            let limit = page.most.map(|most| i32::try_from(most - rows.len()).unwrap_or(i32::MAX));
            let query = self
                .client
                .query()
                .table_name(&self.name)
                .key_condition_expression(&condition)
                .set_expression_attribute_values(Some(values.clone()))
                .scan_index_forward(page.order == Order::Ascending)
                .consistent_read(true)
                .set_limit(limit)
                .set_exclusive_start_key(next);
            let answer = query.send().await.map_err(|error| Error::of(&error))?;
            rows.extend(answer.items.unwrap_or_default().into_iter().map(Item));
            next = answer.last_evaluated_key;
            if next.is_none() || rows.len() >= most {
                return Ok(rows);
            }
        }
    }

    /// Writes one row, whatever was there.
    pub async fn put(&self, item: Item) -> Result<(), Error> {
        let put = self.client.put_item().table_name(&self.name).set_item(Some(item.0));
        put.send().await.map(drop).map_err(|error| Error::of(&error))
    }

    /// Deletes one row. Whether it was there.
    pub async fn delete(&self, key: &Key) -> Result<bool, Error> {
        let delete = self.client.delete_item().table_name(&self.name).set_key(Some(key.attributes()));
        let deleted = delete.return_values(ReturnValue::AllOld).send().await;
        Ok(deleted.map_err(|error| Error::of(&error))?.attributes.is_some_and(|row| !row.is_empty()))
    }

    /// Counts a row's number up; the new one, which nobody else has got.
    pub async fn count_up(&self, key: &Key, name: &str) -> Result<u64, Error> {
        self.counted_up(key, name, "ADD #n :one", HashMap::new()).await
    }

    /// The same, in a row that is of no use after a while.
    pub async fn count_up_expiring(&self, key: &Key, name: &str, after: Duration) -> Result<u64, Error> {
        let end = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default() + after;
        let values = HashMap::from([(":end".to_owned(), number(end.as_secs()))]);
        self.counted_up(key, name, "SET expires = :end ADD #n :one", values).await
    }

    async fn counted_up(
        &self,
        key: &Key,
        name: &str,
        expression: &str,
        mut values: HashMap<String, AttributeValue>,
    ) -> Result<u64, Error> {
        values.insert(":one".into(), number(1));
        let update = self
            .client
            .update_item()
            .table_name(&self.name)
            .set_key(Some(key.attributes()))
            .update_expression(expression)
            .expression_attribute_names("#n", name)
            .set_expression_attribute_values(Some(values))
            .return_values(ReturnValue::UpdatedNew);
        let row = update.send().await.map_err(|error| Error::of(&error))?.attributes;
        Item(row.unwrap_or_default()).get_number(name)?.ok_or_else(|| Error::told("a count without a number"))
    }

    /// All of the writes or, where a condition does not hold, none.
    pub async fn write(&self, actions: Vec<Action>) -> Result<Result<(), Refused>, Error> {
        let items: Vec<_> =
            actions.into_iter().map(|action| action.written(&self.name)).collect::<Result<_, _>>()?;
        let mut tries = 0;
        loop {
            tries += 1;
            let write = self.client.transact_write_items().set_transact_items(Some(items.clone()));
            let Err(error) = write.send().await else { return Ok(Ok(())) };
            match error.as_service_error().and_then(cancelled) {
                Some(Cancelled::Refused(refused)) => return Ok(Err(refused)),
                Some(Cancelled::Busy) if tries < TRIES => pause(tries).await,
                _ => return Err(Error::of(&error)),
            }
        }
    }
}

async fn pause(tries: u32) {
    tokio::time::sleep(jittered(FIRST_PAUSE * (1 << tries.min(6)))).await;
}
