-- What this database is: its schema's version, and a value that only the right
-- encryption key opens.
CREATE TABLE {meta} (
	name  {id 64} NOT NULL PRIMARY KEY,
	value {blob}  NOT NULL
) {options};

CREATE TABLE {users} (
	id         {id 128} NOT NULL PRIMARY KEY,
	phone      {blob}   NOT NULL, -- sealed
	disabled   {int}    NOT NULL,
	created_at {int}    NOT NULL
) {options};

-- Who owns a phone number: HMACs of it, one for each encryption key that was
-- configured when it was written, so that replicas that have both keys and
-- replicas that have one find the same user while a key is changed.
CREATE TABLE {user_phones} (
	phone_hash {bytes 32} NOT NULL PRIMARY KEY,
	key_id     {bytes 32} NOT NULL,
	user_id    {id 128}   NOT NULL
) {options};
CREATE INDEX {prefix}user_phones_user ON {user_phones} (user_id);

-- Openids: aliases of users, who may live elsewhere than in the table above.
CREATE TABLE {bindings} (
	appid    {id 64}  NOT NULL,
	openid   {id 128} NOT NULL,
	unionid  {id 128} NOT NULL, -- empty: WeChat tells none
	user_id  {id 128} NOT NULL,
	phone_at {int}    NOT NULL, -- 0: never logged in with a phone number
	bound_at {int}    NOT NULL,
	PRIMARY KEY (appid, openid)
) {options};
CREATE INDEX {prefix}bindings_user ON {bindings} (user_id, appid);
CREATE INDEX {prefix}bindings_unionid ON {bindings} (unionid, phone_at);

CREATE TABLE {sessions} (
	id           {id 64}    NOT NULL PRIMARY KEY,
	user_id      {id 128}   NOT NULL,
	issuer       {text 512} NOT NULL,
	appid        {id 64}    NOT NULL,
	openid       {id 128}   NOT NULL,
	unionid      {id 128}   NOT NULL,
	created_at   {int}      NOT NULL,
	refreshed_at {int}      NOT NULL,
	counter      {int}      NOT NULL,
	advanced_at  {int}      NOT NULL,
	expires_at   {int}      NOT NULL,
	ended_at     {int}      NOT NULL, -- 0: live
	user_agent   {text 512} NOT NULL,
	address      {text 512} NOT NULL
) {options};
CREATE INDEX {prefix}sessions_user ON {sessions} (user_id, ended_at);
CREATE INDEX {prefix}sessions_expires ON {sessions} (expires_at);

-- The feed that tells every replica which sessions have ended. recorded_at is by
-- the database's clock, which all replicas share.
CREATE TABLE {revocations} (
	seq         {serial},
	session_id  {id 64} NOT NULL,
	until_at    {int}   NOT NULL,
	recorded_at {int}   NOT NULL
) {options};
CREATE INDEX {prefix}revocations_recorded ON {revocations} (recorded_at);
CREATE INDEX {prefix}revocations_until ON {revocations} (until_at);

-- (algorithm, generation) is what replicas agree on: of two that make the next
-- key at once, one is too late and takes the other's.
CREATE TABLE {signing_keys} (
	id          {id 128} NOT NULL PRIMARY KEY,
	algorithm   {id 32}  NOT NULL,
	generation  {int}    NOT NULL,
	private_key {blob}   NOT NULL, -- sealed
	created_at  {int}    NOT NULL,
	signs_from  {int}    NOT NULL,
	retired_at  {int}    NOT NULL, -- 0: not retired
	UNIQUE (algorithm, generation)
) {options};

-- The steps of a login that WeChat has answered, and those in flight.
CREATE TABLE {kept_steps} (
	step       {bytes 32} NOT NULL PRIMARY KEY,
	value      {blob}     NOT NULL, -- sealed
	expires_at {int}      NOT NULL
) {options};
CREATE INDEX {prefix}kept_steps_expires ON {kept_steps} (expires_at);

CREATE TABLE {claimed_steps} (
	step        {bytes 32} NOT NULL PRIMARY KEY,
	owner       {id 128}   NOT NULL,
	lease_until {int}      NOT NULL
) {options};
CREATE INDEX {prefix}claimed_steps_lease ON {claimed_steps} (lease_until);

-- WeChat's access tokens, where replicas must share one.
CREATE TABLE {access_tokens} (
	appid       {id 64}  NOT NULL PRIMARY KEY,
	token       {blob}   NOT NULL, -- sealed; empty: none yet
	fetched_at  {int}    NOT NULL,
	expires_at  {int}    NOT NULL,
	owner       {id 128} NOT NULL, -- who is fetching the next one
	lease_until {int}    NOT NULL
) {options};
