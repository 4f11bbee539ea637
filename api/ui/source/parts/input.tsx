/** A field of a filter. It keeps what is typed while the view changes, and applies it with Enter or when it is left. */

import { useEffect, useRef } from "preact/hooks";

interface Props {
  name: string;
  placeholder: string;
  /** The value of the filter. The field follows it only when it changes. */
  value: string;
  onApply: (text: string) => void;
}

export function FilterInput({ name, placeholder, value, onApply }: Props) {
  const input = useRef<HTMLInputElement>(null);
  useEffect(() => {
    (input.current as HTMLInputElement).value = value;
  }, [value]);
  return (
    <input
      ref={input}
      name={name}
      placeholder={placeholder}
      autoComplete="off"
      spellcheck={false}
      onChange={(event) => onApply(event.currentTarget.value.trim())}
    />
  );
}
