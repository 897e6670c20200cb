/** Zones in which calendars go wrong: half and quarter hours, days that clocks skip or repeat, midnights that do not exist. */
export const zones = [
  ...['UTC', 'Europe/Berlin', 'America/New_York', 'America/Havana', 'America/Santiago', 'America/St_Johns'],
  ...['Asia/Kathmandu', 'Asia/Kolkata', 'Asia/Beirut', 'Africa/Cairo', 'Atlantic/Azores', 'Pacific/Chatham'],
  // Moved by half an hour; left out a whole day; had an offset of 44 minutes and a half until 1972.
  ...['Australia/Lord_Howe', 'Pacific/Apia', 'Africa/Monrovia'],
] as const
