// Numbers as people read them.
export function number(value, digits = 3) {
  if (value === null || value === undefined || Number.isNaN(value)) return "–";
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size >= 1e6) return value.toExponential(digits - 1);
  if (size >= 1000) return Math.round(value).toLocaleString("en");
  if (size < 1e-3) return value.toExponential(1);
  return String(Number(value.toPrecision(digits)));
}

export const whole = (value) => (value === null || value === undefined ? "–" : value.toLocaleString("en"));

export function percent(share) {
  if (share === null || share === undefined) return "–";
  const value = share * 100;
  if (value === 0) return "0 %";
  if (value < 1e-6) return `${value.toExponential(1)} %`;
  return `${Number(value.toPrecision(value >= 10 ? 3 : 2))} %`;
}

export const signed = (value, digits = 3) => (value > 0 ? "+" : value < 0 ? "−" : "") + number(Math.abs(value), digits);
