// Times as people say them.

const clock = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit" });
const weekday = new Intl.DateTimeFormat(undefined, { weekday: "long" });
const date = new Intl.DateTimeFormat(undefined, { day: "numeric", month: "short" });
const dateWithYear = new Intl.DateTimeFormat(undefined, { day: "numeric", month: "short", year: "numeric" });
const full = new Intl.DateTimeFormat(undefined, { dateStyle: "full", timeStyle: "short" });

/** The number of a day, in local time. */
export function dayOf(at) {
  const when = new Date(at);
  return Math.floor(new Date(when.getFullYear(), when.getMonth(), when.getDate(), 12).getTime() / 86_400_000);
}

export function timeOfDay(at) {
  return clock.format(at);
}

export function fullTime(at) {
  return full.format(at);
}

/** Today, Yesterday, a weekday of the last week, or a date. */
export function dayName(at, now = Date.now()) {
  const days = dayOf(now) - dayOf(at);
  if (days === 0) return "Today";
  if (days === 1) return "Yesterday";
  if (days > 1 && days < 7) return weekday.format(at);
  return (new Date(at).getFullYear() === new Date(now).getFullYear() ? date : dateWithYear).format(at);
}

/** Short, for a list: the time today, else the day. */
export function shortTime(at, now = Date.now()) {
  return dayOf(at) === dayOf(now) ? timeOfDay(at) : dayName(at, now);
}
