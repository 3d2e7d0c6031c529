"use strict";

// Making elements. Text always becomes a text node, never markup.

/** An HTML element with attributes and children; children that are null are left out. */
function html(name, attributes = {}, ...children) {
  return filled(document.createElement(name), attributes, children);
}

/** As `html`, for what is inside of a picture. */
function svg(name, attributes = {}, ...children) {
  return filled(document.createElementNS("http://www.w3.org/2000/svg", name), attributes, children);
}

function filled(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children.filter((child) => child != null));
  return element;
}

/** Replace what is in an element, and hide the section it is in if there is nothing. */
function fill(selector, children) {
  const element = document.querySelector(selector);
  element.replaceChildren(...children);
  element.closest("section").hidden = children.length === 0;
}
