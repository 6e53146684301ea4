// Short forms for the document.

export const $ = (id) => document.getElementById(id);

export function made(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

export const percent = (share) => `${(share * 100).toFixed(share && share < 0.1 ? 1 : 0)} %`;
export const rgb = ([red, green, blue]) => `rgb(${red} ${green} ${blue})`;
