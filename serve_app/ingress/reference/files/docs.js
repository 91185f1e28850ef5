// Starts Swagger UI. A file of its own: the page's policy runs no script that is written in the page.
SwaggerUIBundle({
  url: "openapi.json",
  dom_id: "#reference",
  deepLinking: true,
  tryItOutEnabled: true,
  persistAuthorization: false,
  validatorUrl: null, // Swagger's own validator is another host
});
