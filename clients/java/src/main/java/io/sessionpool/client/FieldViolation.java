package io.sessionpool.client;

/**
 * What is wrong with one field of a request.
 *
 * @param field its path
 * @param description what is wrong with it
 */
public record FieldViolation(String field, String description) {}
