-- How much a key may: JSON, see KeyLimits in schemas/keys.ts; empty where nothing is said.
alter table api_keys add column if not exists limits String;
